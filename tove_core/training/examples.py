"""Samples as training sees them: features of their images, a prompt, and one of the right texts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from tove_core.checks import whole
from tove_core.config import DataConfig
from tove_core.data.ahead import ReadAhead
from tove_core.data.broken import BrokenImages, usable
from tove_core.data.features import Features, FeatureTable
from tove_core.data.sample import Sample, distinct_images, load_image
from tove_core.errors import DataError
from tove_core.fusion.noise import sample_turn
from tove_core.language.marks import IMAGE, wrong_marks
from tove_core.model import ToveModel
from tove_core.selecting import encode_as_deployed
from tove_core.training.binding import described, features_of, require_same
from tove_core.training.shown import Shown
from tove_core.training.table import WORKERS, Attempt, Progress, build_table, image_reader

MAX_BROKEN: float = DataConfig.model_fields["max_broken"].default


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
        chosen: where the table is of experts that the model chose, which these are for each image, bool [M, K].

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
        self.chosen: Tensor | None = None
        self._chosen_by: Any = None
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

        Samples of one image follow each other, and images come in the order of their first use.

        Args:
            order: what they are sorted by first, of a sample's number.
        """
        whole(size, "batch_size", least=1)
        every = sorted(range(len(self)), key=lambda i: (order(i) if order else 0, len(self.rows[i]), self.rows[i]))
        for start in range(0, len(every), size):
            some = every[start : start + size]
            yield from ([some[place] for place in places] for places in self.alike(some))

    def read(
        self, size: int, order: Callable[[int], Any] | None = None, *, deployed: bool = False
    ) -> Iterator[tuple[list[int], Shown]]:
        """Yield all samples as `batches` does, with the features of their images.

        Without a table they are computed batch by batch, while threads read the images of the next; samples with an
        unreadable image are left out, with a warning.

        Args:
            size: samples at a time.
            order: as for `batches`.
            deployed: of experts that are run now only those run that the model chooses, if it does.

        Raises:
            DataError: too many images are unreadable.
        """
        if self.table is not None:
            yield from ((indices, self.shown(indices, deployed)) for indices in self.batches(size, order))
            return
        every = list(self.batches(size, order))
        try:
            for indices, coming in zip_longest(every, every[1:], fillvalue=[]):
                read = self._expect(indices, coming)
                kept = [index for index in indices if self._is_readable(index, read)]
                if kept:
                    yield kept, self.shown(kept, deployed)
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
        deployed: bool = False,
    ) -> Examples:
        """Run the frozen parts once per distinct image and keep what they give in float16.

        Samples with an unreadable image are left out, with a warning.

        Args:
            together: every process calls it with the same samples, computes its part and gets those of the others.
            deployed: where the model selects experts, run only those that it chooses for an image. The examples then
                serve no other model, nor this one while it takes every expert or chooses otherwise.

        Raises:
            DataError: more than `max_broken` of the images are unreadable, or another process failed.
            ConfigError: the batch size is below 1.
        """
        batch_size = whole(batch_size, "batch_size", least=1)
        made = cls(model, samples, max_broken=max_broken, workers=workers)
        options = {"batch_size": batch_size, "progress": progress, "workers": workers, "together": together}
        if deployed and model.selects and model.fusion is not None and model.selector is not None and not together:
            made.chosen = torch.zeros(len(made.images), len(model.fusion.experts), dtype=torch.bool)
            made._chosen_by = model.selector, model.selector.selection, dict(model.fusion.off)
            options["chosen"] = made.chosen
        made.table = build_table(model, made.images, made.broken, **options)
        if made.broken:
            kept = [own for own in made.rows if not made._is_broken(own)]
            made._hold(usable(samples, made.rows, made.broken), kept)
        return made

    def require_of(self, model: ToveModel) -> None:
        """Refuse a model whose features are not these: another one, or this one since it was calibrated or has grown.

        Experts that were switched off meanwhile are no difference. The weights of each model are compared once.

        Raises:
            DataError: see `tove_core.training.binding.require_same`; or these are features of chosen experts alone.
        """
        if self.chosen is not None and not self._chosen_as_by(model):
            raise _of_chosen()
        if self.table is None and model is self.model:
            return
        hashed = model not in self._agreed
        held = features_of(self.model, hashed=hashed) if self.table is None else described(self.table)
        if held is not None:
            require_same(held, model, hashed=hashed)
        self._agreed.add(model)

    def _chosen_as_by(self, model: ToveModel) -> bool:
        if model is not self.model or not model.selects or model.selector is None or model.fusion is None:
            return False
        return bool(self._chosen_by == (model.selector, model.selector.selection, dict(model.fusion.off)))

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
            DataError: some of the samples have more images than others; `alike` parts them. Or the table is of chosen
                experts alone.
            ImageError: an image is unreadable; `usable` goes round it.
        """
        return self.shown(indices, names=names).of_samples()

    def shown(self, indices: Sequence[int], deployed: bool = False, *, names: Collection[str] | None = None) -> Shown:
        """Return the features of the samples' images, each image once; `deployed` as for `read`, else as `features`."""
        if len({len(self.rows[i]) for i in indices}) > 1:
            raise DataError("the samples of a batch have different numbers of images; part them by Examples.alike")
        rows = list(dict.fromkeys(row for i in indices for row in self.rows[i]))
        at = {row: place for place, row in enumerate(rows)}
        if self.chosen is not None and not deployed:
            raise _of_chosen()
        chosen = None if self.chosen is None else self.chosen[rows].to(self.model.device)
        if self.table is not None:
            found = self.table.gather(rows, self.model.device, names)
        else:
            pixels = [self._seen[row] if row in self._seen else load_image(self.images[row]) for row in rows]
            found, chosen = encode_as_deployed(self.model, pixels) if deployed else (self.model.encode(pixels), None)
        asked = found if names is None else {name: value for name, value in found.items() if name in names}
        return Shown(asked, [[at[row] for row in self.rows[i]] for i in indices], chosen)

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


def _of_chosen() -> DataError:
    return DataError(
        "the features are of the experts that were chosen for each image, and would be used with others; compute them "
        "again"
    )
