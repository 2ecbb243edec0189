"""The features of a data set's images, computed once each and kept in main memory; images are read ahead in threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tove_core.config import TrainingConfig
from tove_core.data.ahead import ReadAhead
from tove_core.data.broken import BrokenImages, try_image
from tove_core.data.features import FeatureTable
from tove_core.data.sample import ImageRef
from tove_core.model import ToveModel
from tove_core.selecting import encode_as_deployed
from tove_core.training.binding import table_fingerprint
from tove_core.training.exchange import build_together

Progress = Callable[[int, int], None]
Attempt = tuple[Any, None] | tuple[None, str]
"""An image as `ToveModel.encode` takes it, or the sentence that says why there is none."""

WORKERS: int = TrainingConfig.model_fields["workers"].default


def build_table(
    model: ToveModel,
    images: Sequence[ImageRef],
    broken: BrokenImages,
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
    workers: int = WORKERS,
    together: bool = False,
    chosen: Tensor | None = None,
) -> FeatureTable:
    """Return the features of distinct images, float16, in main memory; the rows of unreadable ones say nothing.

    Args:
        together: every process calls it with the same images and computes those of its part.
        chosen: bool [M, K] over `fusion.experts`, to be filled with the model's choice for each image: only the experts
            that are chosen run, and the others' rows are zeros. None: every expert runs on every image.

    Raises:
        DataError: too many images are unreadable, or another process failed.
    """
    blank = torch.zeros(3, 1, 1, dtype=torch.uint8)

    def build(rows: range) -> FeatureTable:
        def encode(some: Sequence[int]) -> Mapping[str, Tensor]:
            last = some[-1] + 1 + batch_size * rows.step
            read.expect(range(some[0], min(last, len(images)), rows.step))
            found = [broken.kept(row, read(row)) for row in some]
            images_of = [blank if image is None else image for image in found]
            if chosen is None:
                return model.encode(images_of)
            features, mask = encode_as_deployed(model, images_of)
            chosen[list(some)] = True if mask is None else mask.cpu()
            return features

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
