"""What is fixed before training, measured on a sample of images: channel statistics, then the residual's size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from tove_core.checks import whole
from tove_core.errors import ConfigError, DataError, ImageError
from tove_core.fusion import Align
from tove_core.hub.autocast import no_autocast
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.images import ImageSource
from tove_core.hub.view import Preprocessor, View
from tove_core.listed import listed
from tove_core.model import ToveModel
from tove_core.naming import CLIP

_SEED = 0x70FE
"""No run's own: runs of any seed measure the same statistics, so that they can share a feature cache."""


def drawn(count: int, wanted: int) -> list[int]:
    """Return the order in which `count` images are taken to measure `wanted` of them.

    Data sets are sorted more often than not, and of a mixture the first images are one part's. So it is a draw without
    replacement, the same for ever; where there are no more than wanted, it is the order they have.
    """
    if count <= wanted:
        return list(range(count))
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED)).tolist()


@torch.no_grad()
def calibrate(model: ToveModel, images: ImageSource | Sequence[ImageSource], batch_size: int = 64) -> None:
    """Measure what is fixed before training; see `ToveModel.calibrate`."""
    batch_size = whole(batch_size, "batch_size", least=1)
    if model.calibrated or model.fusion is None:
        return
    if model.trained:
        raise ConfigError(
            "the model was trained without being calibrated, and calibrating it now would scale what it learnt; use it "
            "as it is, or build another and calibrate that before it is trained"
        )
    seen = listed(images)
    if not seen:
        raise ImageError("no image was given to calibrate on; give a few hundred")
    for key in model.experts:
        align, expert = cast(Align, model.align[key]), cast(FrozenExpert, model.experts[key])
        measure(align, expert, model.config.view, seen, batch_size)
    features = model.encode([seen[i] for i in drawn(len(seen), batch_size)[:batch_size]])
    for key, values in features.items():
        if not values.isfinite().all():
            raise DataError(
                f"{key!r} gives values that are not finite for the images to calibrate on; "
                "calibrate on others, or leave the expert out"
            )
    with no_autocast(model.device.type):
        model.fusion.calibrate(features[CLIP], features)
    model.calibrated = True


def measure(
    align: Align, expert: FrozenExpert, view: View, images: Sequence[ImageSource], batch_size: int = 64
) -> None:
    """Set the channel statistics an expert's alignment asks for, if any, from a region of images."""
    if align.needs_measuring:
        preprocess = Preprocessor({expert.name: expert.spec.input}, view)
        starts = range(0, len(images), batch_size)
        align.measure(expert(preprocess(images[i : i + batch_size])[expert.name]) for i in starts)


def require_calibrated(model: ToveModel) -> None:
    """Refuse to train a model that nothing was measured for; what was trained all the same goes on as it is.

    Raises:
        ConfigError: it has experts, and is neither calibrated nor trained.
    """
    if model.fusion is not None and not (model.calibrated or model.trained):
        raise ConfigError(
            "the model is not calibrated, and what it learns could not be scaled later; call model.calibrate(images) "
            "with a few hundred training images before their features are computed"
        )
