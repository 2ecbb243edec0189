"""How networks want their pixels, written once: the statistics they were trained with. No torch: specs import it."""

from __future__ import annotations

from typing import TypedDict

from tove_core.spec import Channels3, Input


class Statistics(TypedDict):
    """Normalisation of the pixels: values in 0..1, per channel (R, G, B)."""

    mean: Channels3
    std: Channels3


IMAGENET: Statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""timm's IMAGENET_DEFAULT_MEAN and _STD."""

CLIP: Statistics = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
"""timm's OPENAI_CLIP_MEAN and _STD."""

HALF: Statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
"""timm's IMAGENET_INCEPTION_MEAN and _STD."""


def bilinear(height: int, width: int, statistics: Statistics, *, patch: int = 32, dynamic: bool = True) -> Input:
    """Return an input that is resampled bilinearly.

    Args:
        height: in pixels.
        width: in pixels.
        statistics: of the pixels.
        patch: sides are multiples of it.
        dynamic: whether other sizes work too.
    """
    return Input(size=(height, width), patch=patch, interpolation="bilinear", dynamic=dynamic, **statistics)
