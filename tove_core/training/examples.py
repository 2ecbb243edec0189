"""Samples as training sees them: features of their images, a prompt, and one of the right texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from tove_core.checks import whole
from tove_core.config import DataConfig, TrainingConfig
from tove_core.data.ahead import ReadAhead
from tove_core.data.broken import BrokenImages, try_image, usable
from tove_core.data.features import Features, FeatureTable
from tove_core.data.sample import ImageRef, Sample, distinct_images, load_image
from tove_core.errors import DataError
from tove_core.fusion.noise import sample_turn
from tove_core.language.marks import IMAGE, wrong_marks
from tove_core.model import ToveModel
from tove_core.training.binding import described, features_of, require_same, table_fingerprint
from tove_core.training.exchange import build_together

Progress = Callable[[int, int], None]
Attempt = tuple[Any, None] | tuple[None, str]
"""An image as `ToveModel.encode` takes it, or the sentence that says why there is none."""

MAX_BROKEN: float = DataConfig.model_fields["max_broken"].default
WORKERS: int = TrainingConfig.model_fields["workers"].default


class Examples:
    """A data set bound to a model's features: from a table computed once per image, or computed when asked for.

    Args:
        model: whose `encode` gives features.
        samples: what is trained or scored on.
        table: features of the distinct images, in the order of `distinct_images`; None: compute when asked.
        max_broken: share of the images that may be unreadable.
        workers: threads that read and resample images ahead of their step, where there is no table.

    Attributes:
        uneven: whether some samples have more images than others, so that not all fit into one batch.

    Raises:
        DataError: the table is of other images, or says that it is of another model.
    """

    def __init__(
        self,
        model: ToveModel,
        samples: Sequence[Sample],
        table: Features | None = None,
        *,
        max_broken: float = MAX_BROKEN,
        workers: int = WORKERS,
    ) -> None:
        self.model, self.table, self.workers = model, table, workers
        self.images, rows = distinct_images(samples)
        self._hold(samples, rows)
        self.broken = BrokenImages(len(self.images), max_broken)
        self.reader: ReadAhead[Attempt] | None = None
        self._seen: dict[int, Any] = {}
        self._agreed: WeakSet[ToveModel] = WeakSet()
        if table is not None and len(table) != len(self.images):
            raise DataError(f"the feature table holds {len(table)} images, the samples have {len(self.images)}")
        # A cache on disk is opened for its model alone.
        if isinstance(table, FeatureTable):
            self.require_of(model)
        else:
            self._agreed.add(model)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def _hold(self, samples: Sequence[Sample], rows: Sequence[tuple[int, ...]]) -> None:
        self.samples, self.rows = samples, rows
        self.uneven = len({len(own) for own in rows}) > 1  # kept: asked for at every step

    def alike(self, indices: Sequence[int]) -> list[list[int]]:
        """Return the places in `indices` of samples with as many images, sort by sort, in order within each."""
        sorts: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            sorts.setdefault(len(self.rows[index]), []).append(place)
        return [sorts[images] for images in sorted(sorts)]

    def batches(self, size: int, order: Callable[[int], Any] | None = None) -> Iterator[list[int]]:
        """Yield all samples, `size` at a time or fewer, those of a batch with as many images each.

        Args:
            order: what they are sorted by first, of a sample's number; None: the data set's order.
        """
        whole(size, "batch_size", least=1)
        every = sorted(range(len(self)), key=lambda i: (order(i) if order else 0, len(self.rows[i])))
        for start in range(0, len(every), size):
            some = every[start : start + size]
            yield from ([some[place] for place in places] for places in self.alike(some))

    def read(
        self, size: int, order: Callable[[int], Any] | None = None
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield all samples as `batches` does, with their features.

        Without a table they are computed batch by batch, while threads read the images of the next; samples with an
        unreadable image are left out, with a warning.

        Raises:
            DataError: too many images are unreadable.
        """
        if self.table is not None:
            yield from ((indices, self.features(indices)) for indices in self.batches(size, order))
            return
        every = list(self.batches(size, order))
        try:
            for indices, coming in zip_longest(every, every[1:], fillvalue=[]):
                read = self._expect(indices, coming)
                kept = [index for index in indices if self._is_readable(index, read)]
                if kept:
                    yield kept, self.features(kept)
        finally:
            self.close()

    @classmethod
    def cached(
        cls,
        model: ToveModel,
        samples: Sequence[Sample],
        *,
        batch_size: int = 64,
        progress: Progress | None = None,
        max_broken: float = MAX_BROKEN,
        workers: int = WORKERS,
        together: bool = False,
    ) -> Examples:
        """Run the frozen parts once per distinct image and keep what they give in float16.

        Samples with an unreadable image are left out, with a warning.

        Args:
            together: every process calls it with the same samples, computes its part and gets those of the others.

        Raises:
            DataError: more than `max_broken` of the images are unreadable, or another process failed.
            ConfigError: the batch size is below 1.
        """
        batch_size = whole(batch_size, "batch_size", least=1)
        made = cls(model, samples, max_broken=max_broken, workers=workers)
        options = {"batch_size": batch_size, "progress": progress, "workers": workers, "together": together}
        made.table = build_table(model, made.images, made.broken, **options)
        if made.broken:
            kept = [own for own in made.rows if not made._is_broken(own)]
            made._hold(usable(samples, made.rows, made.broken), kept)
        return made

    def require_of(self, model: ToveModel) -> None:
        """Refuse a model whose features are not these: another one, or this one since it was calibrated or has grown.

        Experts that were switched off meanwhile are no difference. The weights of each model are compared once.

        Raises:
            DataError: see `tove_core.training.binding.require_same`.
        """
        if self.table is None and model is self.model:
            return
        hashed = model not in self._agreed
        held = features_of(self.model, hashed=hashed) if self.table is None else described(self.table)
        if held is not None:
            require_same(held, model, hashed=hashed)
        self._agreed.add(model)

    def some(self, indices: Sequence[int]) -> Examples:
        """Return some of the samples, with their features where they are."""
        part = copy.copy(self)
        part._hold([self.samples[i] for i in indices], [self.rows[i] for i in indices])
        part.reader, part._seen = None, {}
        return part

    def usable(
        self, indices: Sequence[int], coming: Sequence[int] = (), *, fits: Callable[[int, int], bool] | None = None
    ) -> list[int]:
        """Return the samples of a step, the next usable one in place of each whose image turns out unreadable.

        Which one that is depends on the images and on `fits` alone, so that a resumed run sees the same samples.

        Args:
            indices: the samples of the step.
            coming: those of the next step, whose images threads begin to read. An unreadable one counts when its
                step comes.
            fits: tells of a place in the step and a sample whether it can stand there; None: every one can.

        Raises:
            DataError: too many images are unreadable, or no sample can be used.
        """
        if self.table is not None:
            if fits is None:
                return list(indices)
            return [self._stand_in(place, index, None, fits) for place, index in enumerate(indices)]
        read = self._expect(indices, coming)
        return [self._stand_in(place, index, read, fits) for place, index in enumerate(indices)]

    def require_sound(self, indices: Sequence[int]) -> None:
        """Make sure that the samples' features, where they are kept, can be had.

        Raises:
            DataError: what a cache on disk holds of them is damaged or gone.
        """
        if self.table is not None:
            self.table.require_sound([row for index in indices for row in self.rows[index]])

    def close(self) -> None:
        """Forget the images of the last step, and those that were read ahead."""
        self._seen = {}
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def features(self, indices: Sequence[int], names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return `clip` v [B, N, D] and u_k [B, N, C_k] of the samples, on the model's device.

        Of samples with several images the tokens follow each other, image by image: N is then a multiple of CLIP's.

        Args:
            indices: the samples.
            names: the features to return, where there is a table the only ones to be read; None: all.

        Raises:
            DataError: some of the samples have more images than others; `alike` parts them.
            ImageError: an image is unreadable; `usable` goes round it.
        """
        if len({len(self.rows[i]) for i in indices}) > 1:
            raise DataError("the samples of a batch have different numbers of images; part them by Examples.alike")
        rows = [row for i in indices for row in self.rows[i]]
        if self.table is not None:
            found = self.table.gather(rows, self.model.device, names)
        else:
            pixels = [self._seen[row] if row in self._seen else load_image(self.images[row]) for row in rows]
            found = self.model.encode(pixels)
        asked = found if names is None else {name: value for name, value in found.items() if name in names}
        return {name: by_sample(value, len(indices)) for name, value in asked.items()}

    def _expect(self, indices: Sequence[int], coming: Sequence[int]) -> ReadAhead[Attempt]:
        """Return what reads the images of the samples, and let threads begin; forget those that were seen before."""
        if self.reader is None:
            self.reader = image_reader(self.model, self.images, self.workers)
        rows = (row for index in (*indices, *coming) for row in self.rows[index])
        self.reader.expect(row for row in rows if row not in self.broken.reasons)
        self._seen = {}
        return self.reader

    def _stand_in(
        self,
        place: int,
        index: int,
        read: Callable[[int], Attempt] | None,
        fits: Callable[[int, int], bool] | None,
    ) -> int:
        for candidate in chain(range(index, len(self)), range(index)):
            if fits is not None and not fits(place, candidate):
                continue
            if read is None or self._is_readable(candidate, read):
                return candidate
        raise DataError(f"none of {len(self)} samples can be used; check the data set")

    def _is_readable(self, index: int, read: Callable[[int], Attempt]) -> bool:
        """Read the images of a sample that were not seen in this step, and tell whether all could be."""
        wanted = [row for row in self.rows[index] if row not in self._seen]
        if self._is_broken(wanted):
            return False
        found = {row: self.broken.kept(row, read(row)) for row in wanted}
        self._seen |= {row: image for row, image in found.items() if image is not None}
        return not self._is_broken(wanted)

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

    def targets(self, indices: Sequence[int], rounds: Sequence[int], *, seed: int = 0) -> list[str]:
        """Return one right text per sample; where there are several they take turns, so that all come equally often.

        Args:
            indices: the samples.
            rounds: how often each has been taken before.
            seed: of the run.
        """
        texts = []
        for index, turn in zip(indices, rounds, strict=True):
            options = self.samples[index].targets
            texts.append(options[sample_turn(seed, turn, index, len(options))])
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
    workers: int = WORKERS,
    together: bool = False,
) -> FeatureTable:
    """Return the features of distinct images, float16, in main memory; the rows of unreadable ones say nothing.

    Args:
        together: every process calls it with the same images and computes those of its part.

    Raises:
        DataError: too many images are unreadable, or another process failed.
    """
    blank = torch.zeros(3, 1, 1, dtype=torch.uint8)

    def build(rows: range) -> FeatureTable:
        def encode(some: Sequence[int]) -> Mapping[str, Tensor]:
            last = some[-1] + 1 + batch_size * rows.step
            read.expect(range(some[0], min(last, len(images)), rows.step))
            found = [broken.kept(row, read(row)) for row in some]
            return model.encode([blank if image is None else image for image in found])

        def tell(done: int, _: int) -> None:
            if progress is not None:  # the other processes are about as far
                progress(min(done * rows.step, len(images)), len(images))

        return FeatureTable.build(encode, rows, table_fingerprint(model), batch_size=batch_size, progress=tell)

    with image_reader(model, images, workers) as read:
        return build_together(build, len(images), broken) if together else build(range(len(images)))


def image_reader(model: ToveModel, images: Sequence[ImageRef], workers: int) -> ReadAhead[Attempt]:
    """Return what reads the images of that number and, in threads, prepares them for CLIP and the active experts."""
    if not workers:
        # Resampled only when they are encoded: a step that is taken in parts then needs less memory.
        return ReadAhead(lambda row: try_image(images[row]), 0)
    preprocess = model.preprocessor()

    def read(row: int) -> Attempt:
        pixels, reason = try_image(images[row])
        return (None, reason) if reason is not None else (preprocess.see(pixels), None)  # type: ignore[arg-type]

    return ReadAhead(read, workers)
