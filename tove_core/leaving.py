"""Experts taken out of a checkpoint by name, in its manifest and its tensors: none of their code is needed for that.

What `ToveModel.detach` and `prune` do to a model that is loaded, this does to one that is not, so that an expert whose
plugin is gone can leave too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from tove_core.config import FusionConfig, Rule
from tove_core.errors import ConfigError, UnknownExpertError

if TYPE_CHECKING:
    from tove_core.checkpoint import Manifest


def manifest_without(manifest: Manifest, gone: Mapping[str, Rule]) -> Manifest:
    """Return what a checkpoint says of itself once experts were detached, each by its rule, and unloaded.

    Raises:
        UnknownExpertError: it holds no such expert.
        ConfigError: the fusion has no softmax to renormalise.
    """
    config = manifest.config
    keys = [expert.key for expert in config.experts]
    for name, rule in gone.items():
        if name not in keys:
            raise UnknownExpertError(f"the model holds no expert {name!r}; it has: {', '.join(keys) or 'none'}")
        if rule == "renormalise" and not _has_softmax(config.fusion):
            raise ConfigError(f"fusion {config.fusion.kind!r} has no softmax to renormalise; use rule 'zero'")
    kept = tuple(expert for expert in config.experts if expert.key not in gone)
    shared = [expert.key for expert in config.experts if expert.gate == "shared" and gone.get(expert.key) == "zero"]
    ghosts = (*(shared if config.fusion.kind == "gate" else ()), *manifest.ghosts) if kept else ()
    experts = {key: part for key, part in manifest.provenance.experts.items() if key not in gone}
    return manifest.model_copy(
        update={
            "config": config.model_copy(update={"experts": kept}),
            "provenance": manifest.provenance.model_copy(update={"experts": experts}),
            "off": {name: rule for name, rule in manifest.off.items() if name not in gone},
            "ghosts": ghosts,
            "selection": manifest.selection and manifest.selection.without(gone),
        }
    )


def tensors_without(tensors: Mapping[str, Tensor], gone: Mapping[str, Rule], left: Manifest) -> dict[str, Tensor]:
    """Return the trained tensors that stay; `left` is what `manifest_without` gave.

    A detached expert's gate row stays where it is a ghost. Where no expert is left, neither is a fusion; where none is
    left to choose, neither is a selector.
    """
    parts = ("align", "fusion.first", "fusion.gate.own", "selector.rows")
    dropped = tuple(f"{part}.{name}." for name in gone for part in parts)
    dropped += tuple(f"fusion.gate.rows.{name}." for name in gone if name not in left.ghosts)
    if gone and not left.config.experts:
        dropped += ("fusion.",)
    if left.selection is None:
        dropped += ("selector.",)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(dropped)}


def _has_softmax(fusion: FusionConfig) -> bool:
    return fusion.kind == "gate" and fusion.gate.activation == "softmax"
