"""Refuses to save a model that its checkpoint would not give back, while the model is still there to be mended.

A checkpoint holds a configuration and what was trained; all else is built anew from the configuration. What the
configuration does not build would be lost, and noticed only by whoever loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn

from tove_core.config import DecoderConfig
from tove_core.errors import CheckpointError
from tove_core.fusion import build_transfer
from tove_core.model import ToveModel

T = TypeVar("T", bound=nn.Module | None)


def require_restorable(model: ToveModel, *, full: bool) -> None:
    """Refuse a model that `load` would refuse or give back as another one.

    Weights of frozen parts are not compared with those they were loaded with: whoever writes to one by hand, and leaves
    no trace by asking for gradients, saves it with `full`.

    Args:
        full: whether the frozen parts are saved as they are now.

    Raises:
        CheckpointError: the fusion or the decoder is not what the configuration builds, or a frozen part is being
            trained and not saved.
    """
    _require_fusion(model)
    _require_decoder(model, full=full)
    if not full and (part := _frozen_in_training(model)):
        raise CheckpointError(
            f"{part} is frozen by the model's configuration but asks for gradients, and a checkpoint would only refer "
            "to the weights it was loaded with; save with full=True, or freeze it again if it is as it was loaded"
        )


def _require_fusion(model: ToveModel) -> None:
    fusion, config = model.fusion, model.config
    own = [expert.key for expert in config.experts if expert.gate == "own"]
    widths = {expert.key: model.align[expert.key].width for expert in config.experts}
    ghosts = [] if fusion is None else fusion.ghosts
    with torch.device("meta"):
        built = build_transfer(config.fusion, model.tower.width, widths, ghosts, own)  # type: ignore[arg-type]
    plain = as_written(fusion)
    if type(plain) is not type(built):
        raise CheckpointError(
            f"the fusion is of the class {_class(plain)} and the model's configuration builds {_class(built)}; "
            "a checkpoint cannot give it back, so save its state_dict by code of your own"
        )
    if plain is not None and built is not None:
        _require_alike("the fusion", dict(plain.named_parameters()), dict(built.named_parameters()))


def _require_decoder(model: ToveModel, *, full: bool) -> None:
    decoder, config = model.decoder, model.config.decoder
    if decoder is None or config is None:
        if (decoder is None) != (config is None):
            has, says = ("none", "one") if decoder is None else (_class(decoder), "none")
            raise CheckpointError(
                f"the model's decoder is {has} and its configuration names {says}, so it could not be loaded again; "
                "build the model with the decoder it is to have"
            )
        return
    given, wanted = _training(decoder.config), _training(config)
    if given != wanted:
        raise CheckpointError(
            f"the decoder was made with kind {given[0]!r} and train {given[1]!r} and the model's configuration says "
            f"{wanted[0]!r} and {wanted[1]!r}; build the model with the decoder's own configuration"
        )
    recorded, known = model.provenance.decoder, decoder.identity
    named = recorded is not None and bool(recorded.sha256 or recorded.revision)
    if named and not full and not (known.sha256 or known.revision):
        raise CheckpointError(
            "the decoder was put into the model after it was built, and a checkpoint would refer to the language model "
            f"{config.name!r} in its stead; save with full=True"
        )


def _training(config: DecoderConfig) -> tuple[object, ...]:
    """Return what decides which tensors of a decoder are trained."""
    return config.kind, config.train, config.lora if config.train == "lora" else None


def _frozen_in_training(model: ToveModel) -> str | None:
    """Return a part that no checkpoint holds and that asks for gradients; None: there is none."""
    parts: dict[str, Mapping[str, nn.Parameter]] = {"CLIP": dict(model.tower.named_parameters())}
    parts |= {f"expert {key!r}": dict(expert.named_parameters()) for key, expert in model.experts.items()}
    if model.decoder is not None:
        kept = model.decoder.learned().keys()
        every = model.decoder.named_parameters()
        parts["the language model"] = {name: p for name, p in every if name not in kept}
    return next((part for part, held in parts.items() if any(p.requires_grad for p in held.values())), None)


def _require_alike(part: str, given: Mapping[str, nn.Parameter], wanted: Mapping[str, nn.Parameter]) -> None:
    shapes = [{name: list(p.shape) for name, p in parameters.items()} for parameters in (given, wanted)]
    odd = sorted(name for name in given.keys() | wanted.keys() if shapes[0].get(name) != shapes[1].get(name))
    if odd:
        raise CheckpointError(
            f"{part} has other parameters than the model's configuration builds ({len(odd)} differ, first {odd[0]}), "
            "so a checkpoint could not be loaded; undo what was done to it, such as a parametrisation, before saving"
        )


def as_written(module: T) -> T:
    """Return the module that `torch.compile` was given, where it is what that returned; else what is given."""
    return getattr(module, "_orig_mod", module)


def _class(module: nn.Module | None) -> str:
    return "None" if module is None else type(module).__name__
