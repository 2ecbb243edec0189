"""A frozen language model in 8 or 4 bits, through bitsandbytes: on a CUDA device or the CPU, where it stays frozen."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tove_core.config import DecoderConfig
from tove_core.errors import ConfigError

BLOCK = 64
"""Weights that share one scale in 4 bits, bitsandbytes' default."""
SCALE = 4
"""Bytes of a scale, a float32."""


def quantisation(config: DecoderConfig, device: torch.device | str | None) -> dict[str, Any]:
    """Return what transformers' `from_pretrained` is told so that weights are loaded in few bits; {} without.

    Raises:
        ConfigError: the device is neither a CUDA device nor the CPU, or bitsandbytes is not installed.
    """
    if config.quantize is None:
        return {}
    place = torch.device(device or "cpu")
    if place.type not in ("cuda", "cpu"):
        raise ConfigError(
            f"decoder.quantize {config.quantize!r} needs a CUDA device or the CPU and the decoder goes to "
            f"{str(place)!r}; give --device cuda, or leave decoder.quantize out"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"decoder.quantize {config.quantize!r} needs bitsandbytes, which is not installed; "
            "run 'pip install \"tove-core[quantize]\"'"
        )
    from transformers import BitsAndBytesConfig

    four = config.quantize == "4bit"
    settings = BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )
    return {"quantization_config": settings, "device_map": {"": place}}


def bytes_spared(model: PreTrainedModel, bits: str) -> int:
    """Return how many bytes fewer a language model takes once bitsandbytes holds it in `8bit` or `4bit`.

    That are the frozen weights of its linear layers, but for the head, which transformers leaves as it is; 8 bits keep
    a scale for each row, 4 bits one for each `BLOCK` weights. Workspaces of bitsandbytes are not counted.
    """
    head, spared = model.get_output_embeddings(), 0
    for module in model.modules():
        if module is head or not (type(module) is nn.Linear or isinstance(module, Conv1D)):
            continue
        weight, rows = module.weight, module.weight.shape[1 if isinstance(module, Conv1D) else 0]
        if not weight.requires_grad:  # adapters are trained
            count = weight.numel()
            few = count + SCALE * rows if bits == "8bit" else -(-count // 2) + SCALE * -(-count // BLOCK)
            spared += count * weight.element_size() - few
    return spared
