"""`tove cache`: compute features once, keep them on disk, look after them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.runs import Device, Set

if TYPE_CHECKING:
    from tove_core.data.cache.build import BuildReport, Estimate
    from tove_core.data.cache.codec import CacheDtype

app = typer.Typer(help="Keep what CLIP and the experts say about images on disk.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="folder of the cache")]


@app.command()
def build(
    config: Annotated[Path, typer.Argument(help="YAML file of a run")],
    out: Annotated[Path, typer.Option(help="folder of the cache; one that is there already gets what it lacks")],
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FEATURE=]DTYPE", help="float16 (if not given), float32 or float8; of all features, or of one"
        ),
    ] = None,
    set_: Set = None,
    batch: Annotated[int, typer.Option(min=1, help="images at a time")] = 64,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="say what is missing and what it takes, and stop")
    ] = False,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Compute what the cache lacks for the training data of a run: CLIP's tokens and every expert's features.

    A build that was stopped, or killed, goes on with the same command. Under torchrun the processes share the images.
    Exit code 1 where images could not be read; what could be is stored.
    """
    from accelerate import PartialState

    from tove_core.builder import assemble
    from tove_core.config import RunConfig
    from tove_core.data.readers import read
    from tove_core.errors import DataError
    from tove_core.settings import read_config
    from tove_core.training.cached import build_cache, cache_builder
    from tove_core.training.metrics import Display
    from tove_core.training.run import prepare

    default, own = _dtypes(dtype or [])
    wanted = read_config(RunConfig, config, set_ or [])
    processes = PartialState(cpu=device in (None, "cpu"))
    rank, world = processes.process_index, processes.num_processes
    samples = read(wanted.data)
    model = assemble(wanted.model, device=device, seed=wanted.seed)
    prepare(model, samples)
    builder = cache_builder(model, samples, out, dtypes=own, default=default, rank=rank, world=world)
    needed = builder.estimate(world)
    if rank == 0:
        _show_estimate(needed, out)
    needed.require_room(out)
    if estimate:
        return
    with Display(len(builder.images), "cache", quiet=quiet or rank > 0, every=batch * 16) as display:
        report = build_cache(model, builder, batch_size=batch, progress=lambda done, _: display.update(done))
    _show_report(report, rank, world)
    if report.broken:
        name, reason = report.broken[0]
        raise DataError(
            f"{len(report.broken):,} images could not be read (first: {name}: {reason}); repair them or take their "
            "samples out, then run the same command again"
        )


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
        print(f"{store.name}: {len(store):,} images of {tokens}x{channels}, {store.dtype}, {_size(store.nbytes)}")
        print(f"  {store.folder.name}: {len(store.shards)} shards; weights {made['weights'][:12]} {source}".rstrip())
        print("  " + ", ".join(f"{name} {version}" for name, version in store.fingerprint.versions.items()))
        total += store.nbytes
    print(f"together {_size(total)}")
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
    print(f"freed {_size(0 if dry_run else remove(found))}")


def _dtypes(given: list[str]) -> tuple[CacheDtype, dict[str, CacheDtype]]:
    """Return the dtype of all features, and those given for one each.

    Raises:
        ConfigError: there is no such dtype.
    """
    from tove_core.data.cache.codec import EXACTNESS
    from tove_core.errors import ConfigError

    default: CacheDtype = "float16"
    own: dict[str, CacheDtype] = {}
    for text in given:
        name, _, word = text.rpartition("=")
        found: CacheDtype | None = next((dtype for dtype in EXACTNESS if dtype == word), None)
        if found is None:
            raise ConfigError(f"--dtype {text!r} names no dtype; choose one of {', '.join(EXACTNESS)}")
        if name:
            own[name] = found
        else:
            default = found
    return default, own


def _show_estimate(needed: Estimate, out: Path) -> None:
    lacking = ", ".join(f"{name} {count:,}" for name, count in needed.missing.items())
    print(f"{needed.images:,} images; to compute: {lacking}")
    print(f"needs up to {_size(needed.nbytes)} in {out}; its disk has {_size(needed.free)} free")


def _show_report(report: BuildReport, rank: int, world: int) -> None:
    who = f"process {rank}: " if world > 1 else ""
    made = ", ".join(f"{name} {count:,}" for name, count in report.computed.items())
    print(f"{who}computed {made}; {report.present:,} images lacked nothing")
    for name, reason in report.broken[:10]:
        typer.echo(f"broken: {name}: {reason}", err=True)


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
