"""Puts a tower, a projector and a language model together as transformers' `LlavaForConditionalGeneration`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
)

from tove_core.errors import ConfigError
from tove_core.export.hf_convert import vision_difference, vision_settings, vision_state
from tove_core.language.base import Decoder
from tove_core.language.lora import adapted, plain_state
from tove_core.tower.base import Tower
from tove_core.tower.hf import HfTower
from tove_core.tower.open_clip import OpenClipTower

_TIED = "embed_tokens.weight"
"""The one name of embeddings to which transformers ties the head of a `LlavaForConditionalGeneration`."""


def llava_model(tower: Tower, decoder: Decoder, image_token: int, dtype: torch.dtype) -> LlavaForConditionalGeneration:
    """Return the same function as tower, projector and language model, on the CPU and for saving only.

    Buffers that are not saved stay on the meta device. What adapters have learned is added to the weights.

    Args:
        image_token: id that marks an image's places; where the language model has no such row, it gets the mean of
            the others, which as a logit never wins.

    Raises:
        ConfigError: transformers' Llava cannot express one of them.
    """
    vision_config, vision = vision_part(tower)
    text_config, text, head = language_part(decoder, image_token, dtype)
    config: Any = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=image_token,
        image_seq_length=tower.tokens,
        projector_hidden_act="gelu",
        multimodal_projector_bias=True,
        vision_feature_select_strategy="default" if has_class_token(tower) else "full",
        # Hidden states begin with what enters the first block, so counting from the end they are the blocks'.
        vision_feature_layer=tower.block - tower.blocks,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )
    with torch.device("meta"):
        model: Any = LlavaForConditionalGeneration(config).eval()
    inner = model.model
    for part, state in (
        (getattr(inner.vision_tower, "vision_model", inner.vision_tower), vision),
        (inner.multi_modal_projector, decoder.projector.state_dict()),
        (inner.language_model, text),
        (model.lm_head, {"weight": head}),
    ):
        written = {name: value.detach().to("cpu", dtype).contiguous() for name, value in state.items()}
        _require_same(part, written)
        part.load_state_dict(written, assign=True)
    if text_config.tie_word_embeddings:
        model.lm_head.weight = inner.language_model.get_input_embeddings().weight
    model.generation_config = generation_defaults(decoder, image_token)
    return model


def has_class_token(tower: Tower) -> bool:
    """Tell whether transformers' image tower gives a class token before its patches, which Llava then drops."""
    return not isinstance(tower, HfTower) or hasattr(_vision(tower.model), "pre_layrnorm")


def vision_part(tower: Tower) -> tuple[PretrainedConfig, dict[str, Tensor]]:
    """Return configuration and state of the image tower as transformers has it.

    Raises:
        ConfigError: transformers has no such tower.
    """
    if isinstance(tower, HfTower):
        inner: Any = _vision(tower.model)
        return copy.deepcopy(inner.config), inner.state_dict()
    difference = "it is neither open_clip's nor transformers'"
    if isinstance(tower, OpenClipTower):
        visual = tower.vision
        found = vision_difference(visual)
        if found is None:
            return CLIPVisionConfig(**vision_settings(visual, tower.reference)), vision_state(visual)
        difference = found
    raise ConfigError(
        f"the tower {tower.reference!r} cannot be a LLaVA's, whose image tower is transformers' CLIP or SigLIP, "
        f"because {difference}; train with a tower of OpenAI's form, or with a transformers one ('hf:...' as clip.name)"
    )


def language_part(
    decoder: Decoder, image_token: int, dtype: torch.dtype
) -> tuple[PretrainedConfig, dict[str, Tensor], Tensor]:
    """Return configuration, state and head [V, hidden] of the language model, with a row for the image token.

    Raises:
        ConfigError: it is not a transformer with nothing but a linear head upon it, which is all that Llava knows.
    """
    model = decoder.language_model
    prefix = f"{model.base_model_prefix}."
    state = plain_state(model, merged=True) if adapted(model) else model.state_dict()
    output: Any = model.get_output_embeddings()
    named = {module: name for name, module in model.named_modules()}
    head_name = f"{named.get(output)}.weight"
    left = [name for name in state if not name.startswith(prefix) and name != head_name]
    config = copy.deepcopy(model.config)
    with torch.device("meta"):
        expected = type(_mapped(config))
    base = getattr(model, model.base_model_prefix, None)
    if left or head_name not in state or type(base) is not expected:
        odd = f"it has {left[0]!r} beside it" if left else f"its transformer is a {type(base).__name__}"
        refuse_language(decoder, odd)
    if not _plain_head(model):
        refuse_language(decoder, "it changes what its head gives, as by scaling or capping logits")
    head, size = state[head_name], image_token + 1
    text = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    embedding = f"{named[model.get_input_embeddings()].removeprefix(prefix)}.weight"
    tied = bool(config.tie_word_embeddings) and embedding == _TIED and torch.equal(head, text[embedding])
    text[embedding], head = widened(text[embedding], size), widened(head, size)
    config.name_or_path = ""  # a place on this machine
    config.update({"vocab_size": len(head), "tie_word_embeddings": tied, "dtype": dtype})
    return config, text, head


@torch.no_grad()
def _plain_head(model: PreTrainedModel) -> bool:
    """Tell whether logits are the head's product alone."""
    ids = torch.arange(3, device=model.device)[None]
    hidden = model.base_model(input_ids=ids).last_hidden_state
    plain, logits = model.get_output_embeddings()(hidden), model(input_ids=ids).logits  # type: ignore[misc]
    return torch.allclose(plain.float(), logits.float(), rtol=1e-2, atol=1e-2 * float(plain.abs().max()))


def widened(weight: Tensor, rows: int) -> Tensor:
    """Return embeddings [V, hidden] with at least so many rows, new ones the mean of the others."""
    if len(weight) >= rows:
        return weight
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])


def generation_defaults(decoder: Decoder, image_token: int) -> Any:
    """Return the decoder's own defaults, which never give the image token."""
    defaults: Any = copy.deepcopy(decoder.language_model.generation_config)
    defaults.max_new_tokens = decoder.config.max_new_tokens
    defaults.suppress_tokens = [image_token]
    return defaults


def refuse_language(decoder: Decoder, difference: str) -> None:
    """Refuse a language model that Llava cannot hold.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"the {decoder.identity.architecture} {decoder.identity.name!r} cannot be a LLaVA's, which is a transformer "
        f"with one linear head, because {difference}; train with a language model such as Llama, Qwen2 or Mistral"
    )


def _mapped(config: PretrainedConfig) -> PreTrainedModel | None:
    try:
        return AutoModel.from_config(config)
    except (ValueError, KeyError):
        return None


def _vision(model: nn.Module) -> nn.Module:
    return getattr(model, "vision_model", model)


def _require_same(part: nn.Module, state: dict[str, Tensor]) -> None:
    wanted = {name: value.shape for name, value in part.state_dict().items()}
    given = {name: value.shape for name, value in state.items()}
    if odd := sorted({name for name, _ in wanted.items() ^ given.items()}):
        raise ConfigError(
            f"transformers' {type(part).__name__} inside a Llava has other parameters than the model, first "
            f"{odd[0]!r}; choose another tower or language model, or report this as a bug"
        )
