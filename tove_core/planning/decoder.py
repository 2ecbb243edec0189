"""The row of the language model: its architecture on meta, run over the image's tokens and a text."""

from __future__ import annotations

import torch

from tove_core.config import DecoderConfig
from tove_core.errors import WeightsError
from tove_core.hub.download import on_disk
from tove_core.language.outline import DecoderOutline
from tove_core.language.quantised import bytes_spared
from tove_core.planning.experts import FLOAT32, ON_META
from tove_core.planning.figures import NOTHING, Figure, Part
from tove_core.planning.measure import parameters, run, tensor_bytes
from tove_core.tower.base import Tower

PROMPT = 32
"""Tokens a prompt is taken to have; no tokenizer is read."""

_FILES = ("model.safetensors", "model.safetensors.index.json")


def decoder_part(config: DecoderConfig, tower: Tower | None, batch: int, *, training: bool) -> Part:
    """Return the row of the decoder, its projector included.

    Raises:
        ConfigError: there is no such folder, or the model cannot be a decoder of the wanted kind.
    """
    try:
        outline = DecoderOutline(config, tower.width if tower else 1)
    except WeightsError as error:
        why = Figure.unknown(" ".join(str(error).split()))
        return Part("decoder", config.name, why, why, why, why, why)
    download = _download(outline)
    if tower is None:
        why = Figure.unknown("it depends on CLIP, which is not known")
        model = outline.language_model
        without = "without its projector, whose size depends on CLIP"
        held = _held(config, outline, tensor_bytes(model))
        params, weights = Figure.about(parameters(model), without), Figure.about(held.value or 0, without)
        return Part("decoder", config.name, params, download, weights, why, why)
    length = PROMPT + config.max_new_tokens
    tokens = torch.empty(batch, tower.tokens, tower.width, device="meta")
    said = f"{ON_META}, {length} tokens of text"
    ran = run(lambda: outline(tokens, length))
    flops = ran.flops // batch
    if training:
        ran = run(lambda: outline(tokens.requires_grad_(), length), gradients=True)
    trained = sum(p.numel() * p.element_size() for p in outline.parameters() if p.requires_grad)
    return Part(
        part="decoder",
        name=config.name,
        params=Figure(parameters(outline), ON_META),
        download=download,
        weights=_held(config, outline, tensor_bytes(outline)),
        activations=Figure.about(ran.peak, said),
        flops=Figure.about(flops, said),
        training=Figure.about(3 * trained, "gradient and two moments of AdamW") if training else NOTHING,
    )


def _held(config: DecoderConfig, outline: DecoderOutline, plain: int) -> Figure:
    """Return what the decoder holds on its device, where it is `plain` bytes in the configured dtype."""
    if config.quantize is None:
        return Figure(plain, f"in {config.dtype}")
    spared = bytes_spared(outline.language_model, config.quantize)
    return Figure.about(plain - spared, f"linear layers in {config.quantize}, the rest in {config.dtype}")


def _download(outline: DecoderOutline) -> Figure:
    if outline.repository is None:
        return Figure(0, "in a local folder")
    if any(on_disk(outline.repository, file) for file in _FILES):
        return Figure(0, "in the local cache")
    width = outline.stored_dtype.itemsize if outline.stored_dtype else FLOAT32
    return Figure.about(width * parameters(outline.language_model), f"parameters x {width} bytes, its dtype")
