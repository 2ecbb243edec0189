"""Turns an open_clip CLIP of OpenAI's form into the configuration and state dict of transformers' `CLIPModel`."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer
from torch import Tensor, nn
from transformers import CLIPConfig

from tove_core.errors import ConfigError
from tove_core.tower.activation import activation_of

_BLOCK_PARTS = (
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
_BLOCKS = "its blocks are not the plain ones"
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh"}


def check_form(model: nn.Module, reference: str) -> None:
    """Check that transformers' `CLIPModel` can express the model.

    Raises:
        ConfigError: it cannot; the message names the first thing that differs from OpenAI's form.
    """
    visual: Any = model.visual
    text: Any = getattr(model, "text", model)
    # `model` itself is the text tower of the class CLIP, whose attributes have other names.
    own_text = text is model or isinstance(text, TextTransformer)
    if difference := vision_difference(visual):
        _refuse(reference, difference)
    checks = (
        (visual.pool_type == "tok" and visual.attn_pool is None, "it does not pool at the class token"),
        (visual.proj is not None, "it has no image projection"),
        (own_text, "its text tower is not open_clip's"),
        (own_text and _text_pool(model) in {"argmax", "eos"}, "its texts are not pooled at their end"),
        (own_text and text.attn_mask is not None, "its text tower is not causal"),
        (own_text and text.text_projection is not None, "it has no text projection"),
        (own_text and getattr(text, "cls_emb", None) is None, "its text tower has a class token"),
        (getattr(model, "logit_bias", None) is None, "it has a logit bias"),
        (getattr(model, "text_decoder", None) is None, "it has a text decoder"),
    )
    for fine, difference in checks:
        if not fine:
            _refuse(reference, difference)
    if not _plain(text.transformer):
        _refuse(reference, _BLOCKS)
    if isinstance(text.text_projection, nn.Linear) and text.text_projection.bias is not None:
        _refuse(reference, "its text projection has a bias")


def vision_difference(visual: nn.Module) -> str | None:
    """Say what keeps an image tower's tokens from being those of a `CLIPVisionModel`; None: nothing."""
    tower: Any = visual
    if not isinstance(visual, VisionTransformer):
        return f"its image tower is a {type(getattr(visual, 'trunk', visual)).__name__}"
    checks = (
        (isinstance(tower.ln_pre, nn.LayerNorm), "it has no norm before its blocks"),
        (len(set(tower.image_size)) == 1, "its images are not square"),
        (_plain(tower.transformer), _BLOCKS),
    )
    return next((difference for fine, difference in checks if not fine), None)


def _plain(transformer: Any) -> bool:
    return all(type(b) is ResidualAttentionBlock and isinstance(b.ls_1, nn.Identity) for b in transformer.resblocks)


def to_config(model: nn.Module, reference: str) -> CLIPConfig:
    """Return transformers' configuration of a model that passed `check_form`, with activations and norms as built.

    Raises:
        ConfigError: the activation, or the token at which texts are pooled, is one that `CLIPModel` lacks.
    """
    visual: Any = model.visual
    text: Any = getattr(model, "text", model)
    shared: dict[str, Any] = {"projection_dim": int(visual.proj.shape[1])}
    vision_config = vision_settings(visual, reference) | shared
    text_config = {
        **_stack(text.transformer, reference),
        "max_position_embeddings": int(text.positional_embedding.shape[0]),
        "vocab_size": int(text.token_embedding.num_embeddings),
        "layer_norm_eps": text.ln_final.eps,
        "eos_token_id": _pooled_at(model, reference),
        # Not used by the model; the defaults may lie outside of a small vocabulary.
        "bos_token_id": None,
        "pad_token_id": None,
        **shared,
    }
    return CLIPConfig(vision_config=vision_config, text_config=text_config, **shared)


def vision_settings(visual: nn.Module, reference: str) -> dict[str, Any]:
    """Return what a `CLIPVisionConfig` says of an image tower without `vision_difference`.

    Raises:
        ConfigError: its activation is one that `CLIPVisionModel` lacks.
    """
    tower: Any = visual
    return {
        **_stack(tower.transformer, reference),
        "image_size": int(tower.image_size[0]),
        "patch_size": int(tower.patch_size[0]),
        "layer_norm_eps": tower.ln_post.eps,
    }


def to_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's parameters under `CLIPModel`'s names, detached on the CPU."""
    visual: Any = model.visual
    text: Any = getattr(model, "text", model)
    projection = text.text_projection
    text_projection = projection.weight if isinstance(projection, nn.Linear) else projection.T
    out: dict[str, Tensor] = {
        "logit_scale": model.logit_scale.reshape(()),  # type: ignore[operator, union-attr]
        "visual_projection.weight": visual.proj.T,
        "text_projection.weight": text_projection,
        "text_model.embeddings.token_embedding.weight": text.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": text.positional_embedding,
    }
    out |= _norms({"text_model.final_layer_norm": text.ln_final}) | _blocks(text.transformer, "text_model.")
    return _alone(out) | {f"vision_model.{name}": tensor for name, tensor in vision_state(visual).items()}


def vision_state(visual: nn.Module) -> dict[str, Tensor]:
    """Return an image tower's parameters under the names that transformers has inside its own, detached on the CPU."""
    tower: Any = visual
    out: dict[str, Tensor] = {
        "embeddings.class_embedding": tower.class_embedding,
        "embeddings.patch_embedding.weight": tower.conv1.weight,
        "embeddings.position_embedding.weight": tower.positional_embedding,
    }
    # The first name is transformers' spelling.
    out |= _norms({"pre_layrnorm": tower.ln_pre, "post_layernorm": tower.ln_post})
    return _alone(out | _blocks(tower.transformer, ""))


def _norms(norms: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{name}.{part}": getattr(norm, part) for name, norm in norms.items() for part in ("weight", "bias")}


def _alone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _stack(transformer: Any, reference: str) -> dict[str, Any]:
    block = transformer.resblocks[0]
    activation = activation_of(b.mlp.gelu for b in transformer.resblocks)
    if activation not in _ACTIVATIONS:
        _refuse(reference, "its activation is neither GELU nor QuickGELU")
    return {
        "hidden_size": int(transformer.width),
        "intermediate_size": int(block.mlp.c_fc.out_features),
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": int(block.attn.num_heads),
        "hidden_act": _ACTIVATIONS[activation],
    }


def _blocks(transformer: Any, prefix: str) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for i, block in enumerate(transformer.resblocks):
        name = f"{prefix}encoder.layers.{i}"
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        for letter, weight, bias in zip("qkv", weights, biases, strict=True):
            out |= {
                f"{name}.self_attn.{letter}_proj.weight": weight,
                f"{name}.self_attn.{letter}_proj.bias": bias,
            }
        for theirs, ours in _BLOCK_PARTS:
            part = block.get_submodule(theirs)
            out |= {f"{name}.{ours}.weight": part.weight, f"{name}.{ours}.bias": part.bias}
    return out


def _text_pool(model: nn.Module) -> str:
    text: Any = getattr(model, "text", None)
    return text.pool_type if text is not None else model.text_pool_type  # type: ignore[return-value]


def _pooled_at(model: nn.Module, reference: str) -> int:
    # transformers takes 2 to mean "the largest id", as OpenAI's own files do; that is open_clip's argmax to the letter.
    if _text_pool(model) == "argmax":
        return 2
    text: Any = getattr(model, "text", None)
    eos: Any = text.eos_id if text is not None else model.text_eos_id
    if eos == 2:
        _refuse(reference, "its texts end with id 2, which transformers takes for the largest id")
    return int(eos)


def _refuse(reference: str, difference: str) -> None:
    raise ConfigError(
        f"{reference!r} cannot be a transformers CLIPModel because {difference}; export it with write_open_clip"
    )
