"""Samples as training sees them: features of their images, a prompt, and one of the right texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tove_core.config import DataConfig
from tove_core.data.broken import BrokenImages, usable
from tove_core.data.features import Features, FeatureTable
from tove_core.data.sample import ImageRef, Sample, distinct_images, load_image
from tove_core.errors import DataError
from tove_core.fusion.align import gives_text
from tove_core.language.marks import IMAGE, wrong_marks
from tove_core.model import ToveModel
from tove_core.tower.text import text_fingerprint

Progress = Callable[[int, int], None]
MAX_BROKEN: float = DataConfig.model_fields["max_broken"].default


class Examples:
    """A data set bound to a model's features: from a table computed once per image, or computed when asked for.

    Args:
        model: whose `encode` gives features.
        samples: what is trained or scored on.
        table: features of the distinct images, in the order of `distinct_images`; None: compute when asked.
        max_broken: share of the images that may be unreadable.

    Raises:
        DataError: the table is of other images, or some samples have more images than others.
    """

    def __init__(
        self,
        model: ToveModel,
        samples: Sequence[Sample],
        table: Features | None = None,
        *,
        max_broken: float = MAX_BROKEN,
    ) -> None:
        self.model, self.samples, self.table = model, samples, table
        self.images, self.rows = distinct_images(samples)
        self.broken = BrokenImages(len(self.images), max_broken)
        self._pixels: dict[int, Tensor] = {}
        if table is not None and len(table) != len(self.images):
            raise DataError(f"the feature table holds {len(table)} images, the samples have {len(self.images)}")
        counts = sorted({len(own) for own in self.rows})
        if len(counts) > 1:
            raise DataError(
                f"some samples have {counts[0]} images and some {counts[-1]}, but in a batch each has as many; "
                "train on one sort, or cut the others into as many with data.tiles"
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @classmethod
    def cached(
        cls,
        model: ToveModel,
        samples: Sequence[Sample],
        *,
        batch_size: int = 64,
        progress: Progress | None = None,
        max_broken: float = MAX_BROKEN,
    ) -> Examples:
        """Run the frozen parts once per distinct image and keep what they give in float16.

        Samples with an unreadable image are left out, with a warning.

        Raises:
            DataError: more than `max_broken` of the images are unreadable.
        """
        made = cls(model, samples, max_broken=max_broken)
        made.table = build_table(model, made.images, made.broken, batch_size=batch_size, progress=progress)
        if made.broken:
            made.samples = usable(samples, made.rows, made.broken)
            made.rows = [own for own in made.rows if not made._is_broken(own)]
        return made

    def usable(self, indices: Sequence[int]) -> list[int]:
        """Return the samples of a step, the next usable one in place of each whose image turns out unreadable.

        Which one that is depends on the images alone, so that a resumed run sees the same samples.

        Raises:
            DataError: too many images are unreadable.
        """
        if self.table is not None:
            return list(indices)
        self._pixels = {}
        return [self._stand_in(index) for index in indices]

    def features(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return `clip` v [B, N, D] and u_k [B, N, C_k] of the samples, on the model's device.

        Of samples with several images the tokens follow each other, image by image: N is then a multiple of CLIP's.

        Raises:
            ImageError: an image is unreadable; `usable` goes round it.
        """
        rows = [row for i in indices for row in self.rows[i]]
        if self.table is not None:
            found = self.table.gather(rows, self.model.device)
        else:
            pixels = [self._pixels[row] if row in self._pixels else load_image(self.images[row]) for row in rows]
            found = self.model.encode(pixels)
        return {name: by_sample(value, len(indices)) for name, value in found.items()}

    def _stand_in(self, index: int) -> int:
        for candidate in (*range(index, len(self)), *range(index)):
            wanted = [row for row in self.rows[candidate] if row not in self._pixels]
            if self._is_broken(wanted):
                continue
            found = self.broken.decode(self.images, wanted)
            self._pixels |= {row: pixels for row, pixels in zip(wanted, found, strict=True) if pixels is not None}
            if not self._is_broken(wanted):
                return candidate
        raise DataError(f"none of {len(self)} samples has images that can be read; check the data set")

    def _is_broken(self, rows: Sequence[int]) -> bool:
        return any(row in self.broken.reasons for row in rows)

    def prompts(self, indices: Sequence[int]) -> list[str]:
        """Return the questions; the configured caption prompt where a sample asks none.

        Raises:
            DataError: one marks the places of more or fewer images than there are.
        """
        default = self.model.config.decoder.caption_prompt if self.model.config.decoder else ""
        asked = [self.samples[i].prompt or default for i in indices]
        for index, prompt in zip(indices, asked, strict=True):
            images = len(self.rows[index])
            # Of an image and its tiles, a mark is the place of all.
            fault = wrong_marks(prompt, images) if images % max(1, prompt.count(IMAGE)) else None
            if fault is not None:
                raise DataError(f"sample {self.samples[index].id!r}: {fault}")
        return asked

    def targets(self, indices: Sequence[int], keys: Tensor) -> list[str]:
        """Return one right text per sample, picked by the sample's key where there are several."""
        texts = []
        for index, key in zip(indices, keys.tolist(), strict=True):
            options = self.samples[index].targets
            texts.append(options[(key >> 8) % len(options)])
        return texts


def by_sample(values: Tensor, samples: int) -> Tensor:
    """Return [B, M·N, C] for the values [B·M, N, C] of M images per sample: their tokens follow each other."""
    return values.reshape(samples, -1, values.shape[-1])


def build_table(
    model: ToveModel,
    images: Sequence[ImageRef],
    broken: BrokenImages,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> FeatureTable:
    """Return the features of distinct images, float16, in main memory; the rows of unreadable ones say nothing.

    Raises:
        DataError: too many images are unreadable.
    """
    blank = torch.zeros(3, 1, 1, dtype=torch.uint8)

    def encode(rows: Sequence[int]) -> Mapping[str, Tensor]:
        return model.encode([blank if pixels is None else pixels for pixels in broken.decode(images, rows)])

    rows = list(range(len(images)))
    return FeatureTable.build(encode, rows, fingerprint=fingerprint(model), batch_size=batch_size, progress=progress)


def fingerprint(model: ToveModel) -> dict[str, object]:
    """Return what a model's features depend on."""
    seen = {
        "view": model.config.view,
        "clip": model.config.clip.model_dump(mode="json"),
        "provenance": model.provenance.model_dump(mode="json", exclude={"decoder", "tove"}),
        "experts": model.active_experts,
    }
    if any(gives_text(model.experts[key].spec) for key in model.active_experts):  # type: ignore[arg-type]
        seen["text"] = text_fingerprint(model.tower)
    return seen
