"""Growth: an expert joins a trained model, whose answers stay exactly what they were until it is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tove_core import plugins
from tove_core.builder import as_config, load_one, weights_choice
from tove_core.calibration import measure
from tove_core.config import ExpertConfig
from tove_core.errors import ConfigError
from tove_core.fusion.align import Align, aligned_width
from tove_core.fusion.kinds import check_names
from tove_core.hub.images import ImageSource
from tove_core.hub.isolation import building
from tove_core.hub.placement import Placement
from tove_core.licenses import check_licenses
from tove_core.listed import listed
from tove_core.model import ToveModel
from tove_core.places import with_absolute_member


@building()
@torch.no_grad()
def add_expert(
    model: ToveModel,
    expert: str | ExpertConfig | Mapping[str, Any],
    *,
    images: ImageSource | Sequence[ImageSource] = (),
) -> None:
    """Let an expert join: loaded, frozen, and with a first linear of zeros, so that every token stays bit for bit.

    In a gated fusion it gets a gate of its own (`ExpertConfig.gate`), which moves no other expert's weight.
    `fit(..., only=[name])` then trains what belongs to it and nothing else.

    Args:
        expert: as `tove_core.build` takes it; its weights come from where the model's experts came from.
        images: a sample of training images, for outputs with `norm: fixed` (a few hundred are enough), in any form that
            `ToveModel.calibrate` takes.

    Raises:
        ConfigError: the model has no experts to join, holds this one already, or images are needed.
        ToveError: the name is unknown, or weights are missing or differ from what is recorded.
    """
    gate = "own" if model.config.fusion.kind == "gate" else "shared"  # in a fusion without gates there is none to own
    wanted = as_config(ExpertConfig, expert, "name").model_copy(update={"gate": gate})
    key, fusion = wanted.key, model.fusion
    if fusion is None:
        raise ConfigError(f"there is no fusion for {key!r} to join; build a model with it and train that")
    check_names([key])
    fusion.check_joining(key)
    found = plugins.registry().resolve(wanted.name)
    found.to_build()
    wanted, found = with_absolute_member(wanted, found)
    for unchecked in check_licenses(model.config.model_copy(update={"experts": (wanted,)}), {key: found}):
        warnings.warn(unchecked, stacklevel=5)  # past the decorators and `ToveModel.add_expert`
    aligned_width(found.spec, model.texts)  # before it is fetched: one that gives text needs a CLIP with a text tower
    loaded, origin = load_one(
        wanted,
        found,
        weights=weights_choice(model.origin.weights),
        placement=Placement.of(wanted, model.device),
        seed=model.origin.seed,
    )
    align = Align(loaded.spec, model.tower.grid, model.texts).to(model.device)
    # Of a model that is neither, `calibrate` will measure it with the others.
    if align.needs_measuring and (model.calibrated or model.trained):
        shown = listed(images)
        if not shown:
            raise ConfigError(f"expert {key!r} is normalised by statistics of its own; give images to measure them on")
        measure(align, loaded, model.config.view, shown)
    fusion.add(key, align.width)
    model.experts[key], model.align[key] = loaded, align
    model.config = model.config.model_copy(update={"experts": (*model.config.experts, wanted)})
    experts = model.provenance.experts | {key: origin}
    model.provenance = model.provenance.model_copy(update={"experts": experts})
    if model.selector is not None:
        warnings.warn(
            f"the selector does not know {key!r}, which therefore runs on every image; run 'tove select' once it is "
            "trained",
            stacklevel=3,
        )
    model.eval()
