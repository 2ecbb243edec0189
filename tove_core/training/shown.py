"""What some samples are shown, each image once: several questions about one image need its features once.

B samples of M images each, R distinct images among them, N tokens of CLIP's grid, D CLIP's width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tove_core.fusion import Fused
from tove_core.model import ToveModel
from tove_core.selecting import fuse_deployed


@dataclass(frozen=True)
class Shown:
    """The features of the distinct images of some samples.

    Attributes:
        features: by name, v [R, N, D] and u_k [R, N, C_k], on the model's device.
        places: for each sample which of the R its images are, M numbers in their order.
        chosen: which experts ran for each image, bool [R, K] over `fusion.experts`; zeros stand for what others would
            give. None: every expert that is on ran.
    """

    features: Mapping[str, Tensor]
    places: Sequence[Sequence[int]]
    chosen: Tensor | None = None
    _rows: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Put the places in a row."""
        object.__setattr__(self, "_rows", [row for own in self.places for row in own])

    def by_sample(self, values: Tensor) -> Tensor:
        """Return [B, M·N, C] for what was made of the images, [R, N, C]: a sample's images follow each other."""
        if self._rows != list(range(len(values))):
            values = values.index_select(0, torch.tensor(self._rows, device=values.device))
        return by_sample(values, len(self.places))

    def of_samples(self) -> dict[str, Tensor]:
        """Return the features by sample, v [B, M·N, D] and u_k [B, M·N, C_k]."""
        return {name: self.by_sample(values) for name, values in self.features.items()}

    def of_first(self, names: Sequence[str]) -> list[str]:
        """Return for each image the name of the first sample that sees it, given those of the samples."""
        found: dict[int, str] = {}
        for name, own in zip(names, self.places, strict=True):
            for row in own:
                found.setdefault(row, name)
        return [found[row] for row in range(len(found))]


def by_sample(values: Tensor, samples: int) -> Tensor:
    """Return [B, M·N, C] for the values [B·M, N, C] of M images per sample: their tokens follow each other."""
    return values.reshape(samples, -1, values.shape[-1])


def fuse_shown(model: ToveModel, shown: Shown) -> Fused:
    """Enhance the distinct images of samples, as the model is deployed: tokens [R, N, D], gates [R, N, K].

    Where experts were chosen before they ran, that choice holds: made anew from v as a table keeps it, in half
    precision, it might be of an expert that never ran.
    """
    if shown.chosen is not None:
        return model.fuse(shown.features, mask=shown.chosen)
    return fuse_deployed(model, shown.features)
