"""A frozen language model in 8 or 4 bits, through bitsandbytes: on a CUDA device or the CPU, where it stays frozen."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from tove_core.config import DecoderConfig
from tove_core.errors import ConfigError


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
