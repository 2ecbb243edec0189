"""`tove cache`: show the features on disk, and look after them. `cache_build` fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Keep what CLIP and the experts say about images on disk.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="folder of the cache")]


@app.command()
def info(folder: Folder) -> None:
    """Show the features of a cache, their images and sizes, and what they were computed from."""
    from tove_core.data.cache.folder import FeatureCache

    cache = FeatureCache.existing(folder)
    total = 0
    for store in cache.stores():
        tokens, channels = store.fingerprint.shape
        made = store.fingerprint.decides
        source = " ".join(str(made[key]) for key in ("distribution", "version", "expert", "variant") if made.get(key))
        print(f"{store.name}: {len(store):,} images of {tokens}x{channels}, {store.dtype}, {human_size(store.nbytes)}")
        print(f"  {store.folder.name}: {len(store.shards)} shards; weights {made['weights'][:12]} {source}".rstrip())
        print("  " + ", ".join(f"{name} {version}" for name, version in store.fingerprint.versions.items()))
        total += store.nbytes
    print(f"together {human_size(total)}")
    if left := cache.leftovers():
        print(f"{len(left)} unfinished files of writers that were killed; 'tove cache prune' removes them")


@app.command()
def verify(
    folder: Folder,
    remove: Annotated[
        bool, typer.Option("--remove", help="remove damaged shards; a build computes them again")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Read every shard and compare its sha256; exit code 1 where one is damaged and stays."""
    from tove_core.data.cache.care import damaged_shards, every_shard
    from tove_core.data.cache.care import remove as remove_files
    from tove_core.data.cache.folder import FeatureCache
    from tove_core.errors import DataError
    from tove_core.training.metrics import Display

    cache = FeatureCache.existing(folder)
    count = len(every_shard(cache))
    with Display(count, "verify", quiet=quiet, every=100) as display:
        found = list(damaged_shards(cache, progress=lambda done, _: display.update(done)))
    for path in found:
        print(f"damaged: {path}")
    print(f"{count - len(found)} of {count} shards are intact")
    if found and remove:
        remove_files(found)
        print(f"removed {len(found)}; run 'tove cache build CONFIG --out {folder}' to compute what they held again")
    elif found:
        raise DataError(f"{len(found)} shards of {folder} are damaged; remove them with --remove and build again")


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
    from tove_core.data.cache.care import remove, superfluous
    from tove_core.data.cache.folder import FeatureCache

    found = superfluous(FeatureCache.existing(folder), keep or None)
    for path in found:
        print(f"{'would remove' if dry_run else 'remove'} {path}")
    print(f"freed {human_size(0 if dry_run else remove(found))}")


def human_size(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
