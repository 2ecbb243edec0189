"""Compares an exported model with its source, number by number, and records the outcome beside it."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tove_core.errors import CheckpointError

REPORT_FILE = "tove_export.json"
RELATIVE_TOLERANCE = 1e-5
"""Largest difference allowed, relative to the largest value; float32 reorderings stay below 5e-6.

A cosine would not do: with the wrong one of GELU and QuickGELU it still exceeds 0.9999.
"""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how far it is from its source.

    Attributes:
        format: "open_clip" or "transformers".
        reference: name of the source model.
        activation: of its image tower.
        parameters: number of parameters written.
        image_difference: largest absolute difference of image embeddings, of values as large as `image_scale`; None
            where the tower gives none.
        image_scale: largest absolute value of the source's image embeddings.
        text_difference: the same for texts; None where there is no text tower.
        text_scale: the same for texts.
        libraries: versions of what wrote it.
        patch_difference: the same for patch tokens of the configured layer; None where they were not compared.
        patch_scale: the same for patch tokens.
    """

    format: str
    reference: str
    activation: str
    parameters: int
    image_difference: float | None
    image_scale: float | None
    text_difference: float | None
    text_scale: float | None
    libraries: dict[str, str]
    patch_difference: float | None = None
    patch_scale: float | None = None

    def summary(self) -> str:
        """Return how far what is seen of an image is from the source, in words."""
        compared = (
            ("image embeddings", self.image_difference, self.image_scale),
            ("patch tokens", self.patch_difference, self.patch_scale),
        )
        known = [f"{what} differ by {by:.2g} of {scale:.3g}" for what, by, scale in compared if None not in (by, scale)]
        return ", ".join(known)

    def save(self, folder: Path) -> None:
        """Write the report into `folder`."""
        (folder / REPORT_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def probe_pixels(size: tuple[int, int]) -> Tensor:
    """Return three fixed images [3, 3, H, W]: two of noise, one smooth."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, *size, generator=generator)
    ramp = torch.linspace(-1.5, 1.5, size[0] * size[1]).reshape(1, 1, *size).expand(1, 3, *size)
    return torch.cat([noise, ramp])


def probe_ids(length: int, vocabulary: int, end: int) -> Tensor:
    """Return three fixed rows of token ids [3, length], each with `end` once, at different places, then zeros.

    `end` must be the largest id that occurs: CLIP's text towers pool where it stands.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, max(min(end, vocabulary), 2), (3, length), generator=generator)
    for row, place in enumerate((length - 1, length // 2, min(1, length - 1))):
        ids[row, place] = end
        ids[row, place + 1 :] = 0
    return ids


def difference(what: str, source: Tensor, loaded: Tensor, tolerance: float = RELATIVE_TOLERANCE) -> tuple[float, float]:
    """Return the largest absolute difference and the largest absolute value of `source`.

    Args:
        what: the values in words, for errors.
        tolerance: the largest difference allowed, relative to the largest value.

    Raises:
        CheckpointError: the shapes differ, a value is not finite, or the difference is above the tolerance.
    """
    if source.shape != loaded.shape:
        raise CheckpointError(
            f"the export gives {what} {list(loaded.shape)} where the source gives {list(source.shape)}; "
            "the configuration written does not describe the model, report this as a bug"
        )
    scale = float(source.abs().max())
    apart = float((source - loaded).abs().max())
    # Written so that not-a-number fails.
    if not apart <= tolerance * scale:
        raise CheckpointError(
            f"the export's {what} differ from the source by {apart:.3g} (largest value {scale:.3g}); "
            "nothing was written, check that activation and normalisation of the model are what its configuration says"
        )
    return apart, scale


def versions(*names: str) -> dict[str, str]:
    """Return the versions of those of the distributions `names` that are installed."""
    found = {d.name: d.version for name in names for d in importlib.metadata.distributions(name=name)}
    return {name: found[name] for name in names if name in found}
