"""Where the features of samples come from: computed, or read from a cache on disk that holds them."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from tove_core.checks import path_given
from tove_core.config import RunConfig
from tove_core.data.broken import BrokenImages, try_image, usable
from tove_core.data.cache.folder import SOURCE, LackingImages
from tove_core.data.cache.table import CachedFeatures
from tove_core.data.sample import Sample, distinct_images
from tove_core.errors import DataError
from tove_core.model import ToveModel
from tove_core.progress import Display
from tove_core.run_folder import CONFIG
from tove_core.settings import read_config
from tove_core.training.cached import open_cache
from tove_core.training.examples import MAX_BROKEN, WORKERS, Examples


@dataclass(frozen=True)
class Stored:
    """A cache that was asked for: what it lacks is an error.

    Attributes:
        folder: of the cache.
        source: what `tove cache build` is given to compute what it lacks; see `FeatureCache`.
    """

    folder: Path
    source: str = SOURCE


class Offer(Stored):
    """A cache that nobody asked for by name: read where it serves; where it does not, the reason is told."""


Cache = str | Path | bool | Stored
"""A cache to read from (an offered one: where it serves); true: features are kept in memory; false: in no place."""


def cache_of(run: Path, named: Path | None = None, source: str = SOURCE) -> Cache:
    """Return the cache that commands on a run read: the one that is named, else what the run was trained from.

    The run's own is offered alone, because it need not hold the images of other data, nor features of a merged model.
    Where the run kept no features, commands on it keep none.

    Args:
        source: what would compute the features that are asked for, as `build_source` gives it.
    """
    if named is not None:
        return Stored(named, source)
    if not (run / CONFIG).is_file():
        return True
    own = read_config(RunConfig, run / CONFIG).training.cache
    return Offer(own, source) if isinstance(own, Path) else own


def workers_of(run: Path) -> int:
    """Return how many threads read images ahead for commands on a run: as many as did when it was trained."""
    return read_config(RunConfig, run / CONFIG).training.workers if (run / CONFIG).is_file() else WORKERS


def make_examples(
    model: ToveModel,
    samples: list[Sample],
    *,
    cache: Cache,
    quiet: bool,
    label: str = "encode",
    max_broken: float = MAX_BROKEN,
    workers: int = WORKERS,
    together: bool = False,
    deployed: bool = False,
) -> Examples:
    """Bind samples to a model, with features computed once per image when `cache` is set, or read from a cache.

    Which cache is read is told on stderr, unless `quiet`; that an offered one does not serve is a warning.

    Args:
        workers: threads that read images ahead, where features are computed.
        together: every process calls it with the same samples; features that are kept in memory are computed in
            parts, one by each.
        deployed: features that are kept in memory are those of the experts that the model chooses; see
            `Examples.cached`.

    Raises:
        DataError: the cache that is named lacks features or images, or holds features of another model; or too many
            images are unreadable.
    """
    found = cached_examples(model, samples, cache, quiet=quiet, max_broken=max_broken)
    if found is not None:
        return found
    plain = Examples(model, samples, max_broken=max_broken, workers=workers)
    if not cache:
        return plain
    with Display(len(plain.images), label, quiet=quiet, every=64 * 16) as display:
        return Examples.cached(
            model,
            samples,
            progress=lambda done, _: display.update(done),
            max_broken=max_broken,
            workers=workers,
            together=together,
            deployed=deployed,
        )


def cached_examples(
    model: ToveModel, samples: list[Sample], cache: Cache, *, quiet: bool, max_broken: float = MAX_BROKEN
) -> Examples | None:
    """Return samples with features read from a cache; None: there is no cache, or the offered one does not serve.

    Samples with an unreadable image, which no cache can hold, are left out, with a warning.

    Raises:
        DataError: see `make_examples`.
    """
    if isinstance(cache, bool):
        return None
    if not isinstance(cache, Stored):
        cache = Stored(path_given(cache, "cache"))
    if not isinstance(cache, Offer):
        table, samples = _opened(model, samples, cache, max_broken)
    else:
        try:
            table, samples = _opened(model, samples, cache, max_broken)
        except DataError as error:
            warnings.warn(f"the cache of the run does not serve, so features are computed: {error}", stacklevel=3)
            return None
    if not quiet:
        print(f"features are read from {cache.folder} ({_precision(table)})", file=sys.stderr, flush=True)
    return Examples(model, samples, table, max_broken=max_broken)


def _opened(
    model: ToveModel, samples: list[Sample], cache: Stored, max_broken: float
) -> tuple[CachedFeatures, list[Sample]]:
    """Return the features of the samples whose images can be read, and these samples."""
    try:
        return open_cache(model, samples, cache.folder, cache.source), samples
    except LackingImages as error:
        images, rows = distinct_images(samples)
        broken = BrokenImages(len(images), max_broken)
        for row in error.rows:
            _, reason = try_image(images[row])
            if reason is None:
                raise  # it could be in the cache, and is not
            broken.add(row, reason)  # which ends where there are too many: no cache can be built of these
        kept = usable(samples, rows, broken)
        return open_cache(model, kept, cache.folder, cache.source), kept


def _precision(table: CachedFeatures) -> str:
    """Return what is kept, by feature where features differ."""
    kept = {name: store.dtype for name, (store, _) in table.features.items()}
    if len(set(kept.values())) == 1:
        return next(iter(kept.values()))
    return ", ".join(f"{name} {dtype}" for name, dtype in kept.items())
