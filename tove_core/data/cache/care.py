"""Looking after a cache: finding damage, and removing what nobody needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tove_core.data.cache.folder import FeatureCache
from tove_core.data.cache.places import FOLDER as IMAGES
from tove_core.data.cache.shards import SUFFIX, Shard, read_shard
from tove_core.data.cache.store import FeatureStore
from tove_core.errors import DataError


def every_shard(cache: FeatureCache) -> list[Path]:
    """Return the files of all shards: every feature's, and the images' digests."""
    own = [path for store in cache.stores() for path in store.files()]
    return own + sorted((cache.folder / IMAGES).glob(f"*{SUFFIX}"))


def damaged_shards(
    cache: FeatureCache, *, whole: bool = True, progress: Callable[[int, int], None] | None = None
) -> Iterator[Path]:
    """Yield each shard that is damaged.

    Args:
        cache: is looked through.
        whole: read everything and compare its sha256; else look at headers and lengths alone.
        progress: called with shards done and shards.
    """
    files = every_shard(cache)
    for done, path in enumerate(files, start=1):
        if (shard := _readable(path)) is None or (whole and not shard.is_intact()):
            yield path
        if progress is not None:
            progress(done, len(files))


def remove(paths: Sequence[Path]) -> int:
    """Remove files and folders; return the bytes that became free.

    Raises:
        DataError: one cannot be removed.
    """
    freed = 0
    for path in paths:
        try:
            if path.is_dir():
                freed += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                shutil.rmtree(path)
            else:
                freed += path.stat().st_size
                path.unlink()
        except FileNotFoundError:
            continue  # another process was faster
        except OSError as error:
            raise DataError(f"{path} cannot be removed ({error.strerror}); check its permissions") from error
    return freed


def superfluous(cache: FeatureCache, keep: Sequence[str] | None = None) -> list[Path]:
    """Return what can go: unfinished files of killed writers, shards whose images lie in others too, unkept features.

    Args:
        cache: is looked through.
        keep: features that stay, by name ("clip") or folder ("clip-1a2b3c4d5e6f-float16"); None: all.

    Raises:
        DataError: a name to keep is unknown, or a shard is damaged.
    """
    stores = cache.stores()
    unknown = set(keep or ()) - {name for store in stores for name in (store.name, store.folder.name)}
    if unknown:
        known = ", ".join(store.folder.name for store in stores)
        raise DataError(
            f"{', '.join(sorted(unknown))} is not in {cache.folder}, which holds {known}; keep one of these"
        )
    kept = [store for store in stores if keep is None or {store.name, store.folder.name} & set(keep)]
    gone = [store.folder for store in stores if store not in kept]
    gone += [path for path in cache.leftovers() if path.parent not in gone]
    return gone + [shard.path for store in kept for shard in _repeating(store)]


def _repeating(store: FeatureStore) -> Iterator[Shard]:
    """Yield shards all of whose rows lie in earlier ones."""
    repeated, first = store.index.repeated(), 0
    for shard in store.shards:
        if repeated[first : first + len(shard)].all():
            yield shard
        first += len(shard)


def _readable(path: Path) -> Shard | None:
    try:
        return read_shard(path)
    except DataError:
        return None
