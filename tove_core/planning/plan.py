"""Plan a model: every part counted and its licence read, before any weights are downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from tove_core import plugins
from tove_core.builder import model_config
from tove_core.config import ClipConfig, DecoderConfig, ExpertConfig, FusionConfig, ModelConfig
from tove_core.errors import ConfigError, LicenseError
from tove_core.licenses import LicensePolicy, check_licenses, terms_of
from tove_core.planning.clip import clip_part
from tove_core.planning.decoder import PROMPT, decoder_part
from tove_core.planning.experts import expert_part
from tove_core.planning.figures import Part, Plan
from tove_core.planning.fusion import fusion_part

HOW = (
    "~ estimated, >= something is unknown. running: most memory alive at once in the part, run on torch's meta device "
    "without kernels' workspaces;",
    f"parts run one after another, so the largest counts beside all weights. Texts: {PROMPT} tokens and the answer's.",
)


def plan(
    experts: Sequence[str | ExpertConfig | Mapping[str, Any]] = (),
    *,
    clip: str | ClipConfig | Mapping[str, Any] = ClipConfig(),  # noqa: B008  # frozen
    decoder: str | DecoderConfig | Mapping[str, Any] | None = DecoderConfig(),  # noqa: B008  # frozen
    fusion: str | FusionConfig | Mapping[str, Any] = FusionConfig(),  # noqa: B008  # frozen
    licenses: Literal["commercial", "strict"] | LicensePolicy | Mapping[str, Any] | None = None,
    batch: int = 1,
    training: bool = False,
) -> Plan:
    """Say what building a model with these arguments of `tove_core.build` would fetch and take.

    No weights are downloaded. The configuration of a hub model that is not on disk is fetched, and its commit pinned,
    where the network is allowed; where it is not, the row says so.

    Args:
        batch: images at a time.
        training: count gradients, moments of the optimiser, and what the backward pass needs.

    Raises:
        ConfigError: options contradict, or name something that does not exist.
        UnknownExpertError: nobody offers an expert.
    """
    config = model_config(experts, clip=clip, decoder=decoder, fusion=fusion, licenses=licenses)
    return plan_model(config, batch=batch, training=training)


def plan_model(config: ModelConfig, *, batch: int = 1, training: bool = False) -> Plan:
    """Plan the model a configuration describes; see `plan`."""
    if batch < 1:
        raise ConfigError(f"a batch of {batch} images was to be planned; give at least 1")
    registry = plugins.registry()
    resolved = {wanted.key: registry.resolve(wanted.name) for wanted in config.experts}
    for found in resolved.values():
        found.to_build()
    refused, unchecked = None, []
    try:
        unchecked = check_licenses(config, resolved)
    except LicenseError as error:
        refused = str(error)
    first, tower = clip_part(config.clip, batch)
    parts = [_with_terms(first), *(expert_part(wanted, resolved[wanted.key], batch) for wanted in config.experts)]
    specs = {key: found.spec for key, found in resolved.items()}
    fused = fusion_part(config.fusion, tower, specs, batch, training=training)
    parts += [fused] if fused else []
    if config.decoder is not None:
        parts.append(_with_terms(decoder_part(config.decoder, tower, batch, training=training)))
    return Plan(tuple(parts), batch, training, refused, tuple(unchecked), HOW)


def _with_terms(part: Part) -> Part:
    """Return the row of a CLIP or language model with its licence, where that is known."""
    terms = terms_of(part.name)
    return part if terms is None else replace(part, license=terms.license, commercial=terms.commercial)
