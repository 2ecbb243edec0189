"""Looking after a cache: finding damage, and removing what nobody needs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from tove_core.data.cache.folder import FeatureCache
from tove_core.data.cache.places import FOLDER as IMAGES
from tove_core.data.cache.shards import SUFFIX, UNFINISHED, Shard, read_shard
from tove_core.data.cache.store import DESCRIPTION, FeatureStore
from tove_core.errors import DataError


def every_shard(cache: FeatureCache) -> list[Path]:
    """Return the files of all shards: every feature's whose description makes sense, and the images' digests."""
    own = [path for store in cache.survey()[0] for path in store.files()]
    return own + sorted((cache.folder / IMAGES).glob(f"*{SUFFIX}"))


def damaged_features(cache: FeatureCache) -> list[Path]:
    """Return the folders of features whose description makes no sense: nobody knows what their shards hold."""
    return cache.survey()[1]


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
    opened = {store.folder: store.read_shard for store in cache.survey()[0]}
    for done, path in enumerate(files, start=1):
        shard = _readable(path, opened.get(path.parent, read_shard))
        if shard is None or (whole and not shard.is_intact()):
            yield path
        if progress is not None:
            progress(done, len(files))


def require_ours(folders: Sequence[Path]) -> None:
    """Refuse to take folders for those of damaged features which hold what no cache writes.

    Raises:
        DataError: one does, which is named.
    """
    for folder in folders:
        strange = [
            path
            for path in sorted(folder.iterdir())
            if path.is_dir() or (path.name != DESCRIPTION and path.suffix not in (SUFFIX, UNFINISHED))
        ]
        if strange:
            raise DataError(
                f"{folder} looks like a damaged feature, but no cache writes {strange[0].name} there; look at it, and "
                "remove the folder yourself if nobody needs it"
            )


def size_of(paths: Sequence[Path]) -> int:
    """Return the bytes that files and folders take."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in files if file.is_file())


def remove(paths: Sequence[Path]) -> int:
    """Remove files and folders; return the bytes that became free.

    Raises:
        DataError: one cannot be removed.
    """
    freed = 0
    for path in paths:
        try:
            size = size_of([path])
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            freed += size
        except FileNotFoundError:
            continue  # another process was faster
        except OSError as error:
            raise DataError(f"{path} cannot be removed ({error.strerror}); check its permissions") from error
    return freed


def superfluous(
    cache: FeatureCache, keep: Sequence[str] | None = None, *, damaged: Collection[Path] = ()
) -> list[Path]:
    """Return what can go: unfinished files of killed writers, shards whose images lie in others too, unkept features.

    Args:
        cache: is looked through; features whose description is damaged are not.
        keep: features that stay, by name ("clip") or folder ("clip-1a2b3c4d5e6f-float16"); None: all.
        damaged: shards that are left out.

    Raises:
        DataError: a name to keep is unknown, or a shard that is not left out is damaged.
    """
    stores = cache.survey()[0]
    for store in stores:
        store.leave_out(damaged)
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


def _readable(path: Path, opened: Callable[[Path], Shard]) -> Shard | None:
    try:
        return opened(path)
    except DataError:
        return None
