"""Shows that an exported LLaVA is the model it was written from: in pixels, token ids, image features and logits."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tove_core.errors import CheckpointError
from tove_core.export.compare import difference, probe_pixels
from tove_core.hub.bars import without_bars
from tove_core.hub.view import Preprocessor, View
from tove_core.language.base import Decoder
from tove_core.language.lora import adapted, plain_state
from tove_core.tower.base import Tower

MAPPING_TOLERANCE = 1e-4
"""Largest difference of logits relative to the largest one, computed in float32 from the same rounded weights."""
ROUNDING_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""The same between the weights as trained and as they are written. Rounding is eight times coarser in bfloat16."""
ANSWER = "a red square on the left of two"
QUESTION = "What is on the left, and how many are there?"


@dataclass(frozen=True)
class Outputs:
    """What a model makes of the probes, in float32: features [P, N, hidden] and logits [A, V] of the answers."""

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Proof:
    """The largest absolute differences found; `_scale`: the largest absolute value of the source's."""

    feature_difference: float
    feature_scale: float
    logit_difference: float
    logit_scale: float
    rounding_difference: float
    pixel_difference: float


def prove(tower: Tower, decoder: Decoder, view: View, folder: Path, dtype: torch.dtype) -> Proof:
    """Load a folder as anybody would, in float32 on the CPU, and compare it with the model.

    Twice in features and logits: with the model's own weights rounded as they are written, closely, so that rounding
    hides nothing; and with the model as it is.

    Raises:
        CheckpointError: it cannot be loaded, or differs.
    """
    prompts = [decoder.config.caption_prompt, QUESTION]
    processor = _processor(folder)
    ids = _compared_ids(tower, decoder, processor, prompts)
    pixels = _compared_pixels(tower, view, processor)
    found = _theirs(tower, decoder, folder, ids)
    close = _ours(tower, rounded(decoder, dtype), prompts, dtype)
    width = close.logits.shape[1]
    features = difference("projected image features", close.features, found.features)
    logits = difference("logits", close.logits, found.logits[:, :width], MAPPING_TOLERANCE)
    as_it_is = _ours(tower, _alone(decoder), prompts, torch.float32)
    apart = difference("logits", as_it_is.logits, found.logits[:, :width], ROUNDING_TOLERANCE[dtype])
    return Proof(*features, *logits, apart[0], pixels)


def rounded(decoder: Decoder, dtype: torch.dtype) -> Decoder:
    """Return a copy that computes in float32 on the CPU with weights as they are in `dtype`, adapters added to them."""
    twin = _alone(decoder)
    model = twin.language_model
    layers = adapted(model)
    state = {name: value.to("cpu", dtype) for name, value in _plain(decoder).items()}
    own = model.state_dict()
    for layer in layers.values():
        layer.enable_adapters(enabled=False)
    with torch.no_grad():
        for name, value in state.items():
            place, _, leaf = name.rpartition(".")
            own[f"{place}.base_layer.{leaf}" if place in layers else name].copy_(value)
        for parameter in twin.projector.parameters():
            parameter.copy_(parameter.to(dtype))
    return twin


def _plain(decoder: Decoder) -> dict[str, Tensor]:
    model = decoder.language_model
    return plain_state(model, merged=True) if adapted(model) else model.state_dict()


def _alone(decoder: Decoder) -> Decoder:
    return copy.deepcopy(decoder).to("cpu", torch.float32).eval()


def _processor(folder: Path) -> Any:
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _unreadable("processor", error) from error


def _compared_ids(tower: Tower, decoder: Decoder, processor: Any, prompts: list[str]) -> list[list[int]]:
    """Return the prompts' ids as the processor gives them, which must be those that the model was trained on."""
    image = probe_image(tower)
    found = []
    for text, prompt in zip(decoder.encode(prompts), prompts, strict=True):
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        said = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        wanted = [*text.before, *[processor.image_token_id] * tower.tokens, *text.after]
        if said["input_ids"][0] != wanted:
            raise CheckpointError(
                f"transformers' processor makes ids {said['input_ids'][0][:8]}... of the prompt {prompt!r:.60} where "
                f"the model was trained on {wanted[:8]}...; set decoder.prompt to a template that begins with {{image}}"
            )
        found.append(wanted)
    return found


def _compared_pixels(tower: Tower, view: View, processor: Any) -> float:
    """Return how far the processor's pixels are from the model's, on a smooth image: rounding, not another region."""
    image, side = probe_image(tower), min(tower.input.size)
    ours = Preprocessor({"clip": tower.input}, view)([image])["clip"]
    theirs = processor.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    # Both round to whole levels once or twice; a central square may be cut up to one pixel elsewhere.
    allowed = (2 + 255 / side) / 255 / min(tower.input.std)
    apart = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    if not apart <= allowed:
        raise CheckpointError(
            f"transformers' image processor gives pixels {list(theirs.shape)} that differ from the model's "
            f"{list(ours.shape)} by {apart:.3g} where rounding explains {allowed:.3g}; report this as a bug"
        )
    return apart


def probe_image(tower: Tower) -> Image.Image:
    """Return a fixed image, wider than high, whose colours rise slowly: red to the right, green down, blue both."""
    height, width = (int(side * scale) for side, scale in zip(tower.input.size, (1.3, 1.9), strict=True))
    across = torch.linspace(0, 255, width).expand(height, width)
    down = torch.linspace(0, 255, height)[:, None].expand(height, width)
    return Image.fromarray(torch.stack([across, down, (across + down) / 2], -1).round().to(torch.uint8).numpy())


@torch.no_grad()
def _theirs(tower: Tower, decoder: Decoder, folder: Path, ids: list[list[int]]) -> Outputs:
    try:
        with without_bars():
            model: Any = LlavaForConditionalGeneration.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
            ).eval()
        pixels = probe_pixels(tower.input.size)[1:]
        features = model.get_image_features(pixel_values=pixels).pooler_output
        target = list(decoder.encode([QUESTION], [ANSWER])[0].target)
        logits = []
        for row, prompt in zip(pixels, ids, strict=True):
            text = torch.tensor([[*prompt, *target]])
            mask = torch.ones_like(text)
            out = model(input_ids=text, attention_mask=mask, pixel_values=row[None]).logits
            logits.append(out[0, len(prompt) - 1 : -1])
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _unreadable("model", error) from error
    return Outputs(torch.stack(list(features)), torch.cat(logits))


@torch.no_grad()
def _ours(tower: Tower, decoder: Decoder, prompts: list[str], dtype: torch.dtype) -> Outputs:
    source = copy.deepcopy(tower).to("cpu", dtype).to(torch.float32).eval()
    tokens = source(probe_pixels(tower.input.size)[1:]).patches
    logits = [decoder(row[None], [prompt], [ANSWER]).logits for row, prompt in zip(tokens, prompts, strict=True)]
    return Outputs(decoder.projector(tokens), torch.cat(logits))


def _unreadable(what: str, error: Exception) -> CheckpointError:
    first = " ".join(str(error).split())[:300]
    return CheckpointError(
        f"transformers cannot use the {what} of the LLaVA ({type(error).__name__}: {first}); nothing was written, "
        "choose another language model, or report this as a bug"
    )
