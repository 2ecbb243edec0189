"""`tove cache`: show the features on disk, and look after them. `cache_build` fills them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tove_core.data.cache.folder import FeatureCache
    from tove_core.data.cache.store import FeatureStore

app = typer.Typer(help="Keep what CLIP and the experts say about images on disk.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="folder of the cache")]


@app.command()
def info(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Show the features of a cache, their images and sizes, and what they were computed from."""
    from tove_core.data.cache.folder import FeatureCache

    cache = FeatureCache.existing(folder)
    damaged, left = _damaged(cache), cache.leftovers()
    stores = cache.survey()[0]
    for store in stores:
        store.leave_out(damaged)
    if as_json:
        features = [_plain(store) for store in stores]
        told = {"features": features, "damaged": list(map(str, damaged)), "unfinished": list(map(str, left))}
        print(json.dumps(told, indent=2))
        return
    for store in stores:
        _show(store)
    print(f"together {human_size(sum(store.nbytes for store in stores))}")
    if left:
        print(f"{len(left)} unfinished files of writers that were killed; 'tove cache prune' removes them")
    _tell(damaged, folder)


def _show(store: FeatureStore) -> None:
    tokens, channels = store.fingerprint.shape
    made = store.fingerprint.decides
    source = " ".join(str(made[key]) for key in ("distribution", "version", "expert", "variant") if made.get(key))
    print(f"{store.name}: {len(store):,} images of {tokens}x{channels}, {store.dtype}, {human_size(store.nbytes)}")
    weights = str(made.get("weights", "unknown"))[:12]
    shards = f"{len(store.shards)} {'shard' if len(store.shards) == 1 else 'shards'}"
    print(f"  {store.folder.name}: {shards}; weights {weights} {source}".rstrip())
    print("  " + ", ".join(f"{name} {version}" for name, version in store.fingerprint.versions.items()))


def _plain(store: FeatureStore) -> dict[str, Any]:
    """Return what is known of a feature, as JSON holds it."""
    return {
        "name": store.name,
        "folder": str(store.folder),
        "images": len(store),
        "shape": list(store.fingerprint.shape),
        "dtype": str(store.dtype),
        "bytes": store.nbytes,
        "shards": len(store.shards),
        "made_by": store.fingerprint.decides,
        "versions": store.fingerprint.versions,
    }


@app.command()
def verify(
    folder: Folder,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="remove damaged shards, and features that are; a build computes them again"),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Read every shard and compare its sha256; exit code 1 where one is damaged and stays.

    A feature whose feature.json is damaged is so as a whole.
    """
    from tove_core.data.cache.care import damaged_features, damaged_shards, every_shard, require_ours
    from tove_core.data.cache.care import remove as remove_files
    from tove_core.data.cache.folder import FeatureCache
    from tove_core.errors import DataError
    from tove_core.progress import Display

    cache = FeatureCache.existing(folder)
    count = len(every_shard(cache))
    with Display(count, "verify", quiet=quiet, every=100) as display:
        found = list(damaged_shards(cache, progress=lambda done, _: display.update(done)))
    features = damaged_features(cache)
    for path in [*features, *found]:
        print(f"damaged: {path}")
    print(f"{count - len(found)} of {count} shards are intact")
    damaged = [f"{len(paths)} {what}" for paths, what in ((features, "features"), (found, "shards")) if paths]
    if damaged and remove:
        require_ours(features)
        remove_files([*features, *found])
        print(
            f"removed {' and '.join(damaged)}; run 'tove cache build CONFIG --out {folder}' to compute what they held "
            "again"
        )
    elif damaged:
        raise DataError(
            f"{' and '.join(damaged)} of {folder} are damaged; remove them with --remove and build the cache again"
        )


@app.command()
def prune(
    folder: Folder,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="FEATURE", help="remove every feature but these, by name or folder as 'info' shows them"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would go, and remove nothing")] = False,
) -> None:
    """Remove what killed writers left and shards that other shards hold too; with --keep, features as well."""
    from tove_core.data.cache.care import remove, size_of, superfluous
    from tove_core.data.cache.folder import FeatureCache

    cache = FeatureCache.existing(folder)
    damaged = _damaged(cache)
    found = superfluous(cache, keep or None, damaged=damaged)
    for path in found:
        print(f"{'would remove' if dry_run else 'remove'} {path}")
    print(f"would free {human_size(size_of(found))}" if dry_run else f"freed {human_size(remove(found))}")
    _tell([path for path in damaged if path.exists()], folder)


def _damaged(cache: FeatureCache) -> list[Path]:
    """Return features and shards whose damage is seen without reading everything."""
    from tove_core.data.cache.care import damaged_features, damaged_shards

    return [*damaged_features(cache), *damaged_shards(cache, whole=False)]


def _tell(damaged: Sequence[Path], folder: Path) -> None:
    """Say what is damaged and was left out, if anything is."""
    if damaged:
        shown = ", ".join(str(path.relative_to(folder)) for path in damaged[:3]) + (", ..." if damaged[3:] else "")
        print(
            f"{len(damaged)} damaged and left out ({shown}); 'tove cache verify {folder} --remove' removes what is "
            "damaged, and a build computes it again"
        )


def human_size(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
