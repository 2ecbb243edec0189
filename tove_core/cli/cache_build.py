"""`tove cache build`: compute what CLIP and the experts say about a run's images, in one process or several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.cache import human_size
from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.runs import Device, Endpoint, NodeRank, Set

if TYPE_CHECKING:
    from tove_core.config import DataConfig, RunConfig
    from tove_core.data.cache.build import BuildReport, Estimate
    from tove_core.data.cache.codec import CacheDtype
    from tove_core.data.sample import Sample
    from tove_core.model import ToveModel


def build(
    source: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a run, or folder of a trained one")],
    out: Annotated[Path, typer.Option(help="folder of the cache; one that is there already gets what it lacks")],
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FEATURE=]DTYPE", help="float16 (if not given), float32 or float8; of all features, or of one"
        ),
    ] = None,
    set_: Set = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPERT", help="also of an expert that is to join the run, as with tove train --add"),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="of the validation data, else of the test split, in place of training's")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="images at a time")] = 64,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="say what is missing and what it takes, and stop")
    ] = False,
    nproc: Annotated[int, typer.Option(min=1, help="processes that share the images, on this machine")] = 1,
    nnodes: Annotated[
        int, typer.Option(min=1, help="machines that share the images, each started alike; all see the cache's disk")
    ] = 1,
    node_rank: NodeRank = None,
    rdzv_endpoint: Endpoint = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Compute what the cache lacks for the training data of a run: CLIP's tokens and every expert's features.

    A build that was stopped, or killed, goes on with the same command, also in another number of processes. Exit code
    1 where images could not be read; what could be is stored.
    """
    from tove_core.data.cache.folder import MARKS
    from tove_core.folders import require_own_folder, require_writable
    from tove_core.training.launch import Launch

    default, own = _dtypes(dtype or [])
    require_own_folder(out, MARKS, "cache")
    if not estimate:
        require_writable(out)
    launch = Launch(nproc, nnodes, node_rank, rdzv_endpoint)
    if launch.is_needed:
        flags = [("--held-out", held_out), ("--estimate", estimate), ("--quiet", quiet)]
        repeated = [("--dtype", dtype), ("--set", set_), ("--add", add)]
        words = [word for word, given in flags if given]
        words += [word for name, values in repeated for value in values or [] for word in (name, value)]
        words += ["--device", device] if device else []
        words += ["--batch-size", str(batch_size), *launch.words()]
        launch.start(["cache", "build", str(source), "--out", str(out), *words])
        return
    # Only what computes imports what that takes.
    from accelerate.utils import gather_object

    from tove_core.errors import DataError
    from tove_core.progress import Display
    from tove_core.training.cached import build_cache, cache_builder
    from tove_core.training.processes import PATIENCE, join, own_device

    processes = join(device, launch.processes if launch.processes > 1 else None, patience=PATIENCE)
    tell_unused_gpu(device)
    rank, world = processes.process_index, processes.num_processes
    model, samples = _subject(source, set_ or [], add or [], held_out, own_device(device))
    builder = cache_builder(model, samples, out, dtypes=own, default=default, rank=rank, world=world, dry=estimate)
    needed = _together(gather_object([builder.estimate()]))  # all have looked before the first one writes
    if not needed.fits:
        if rank == 0:
            print("there may be too little room, so images that are new or were moved are read first", file=sys.stderr)
        builder.look()
        needed = _together(gather_object([builder.estimate()]))
    if rank == 0:
        _show_estimate(needed, out)
    needed.require_room(out)
    if estimate:
        return
    with Display(len(builder.images), "cache", quiet=quiet or rank > 0, every=batch_size * 16) as display:
        report = build_cache(model, builder, batch_size=batch_size, progress=lambda done, _: display.update(done))
    # A process that failed ends the others, so what could not be read is said when all have ended.
    reports: list[BuildReport] = gather_object([report])
    if rank == 0:
        for number, one in enumerate(reports):
            _show_report(one, f"process {number}: " if world > 1 else "")
        option = f"tove evaluate RUN --cache {out}" if held_out else f"tove train CONFIG --set training.cache={out}"
        print(f"wrote {out}; '{option}' reads it")
        if broken := [pair for one in reports for pair in one.broken]:
            name, reason = broken[0]
            raise DataError(
                f"{len(broken):,} images could not be read (first: {name}: {reason}); repair them or take their "
                "samples out, then run the same command again"
            )


def _subject(
    source: Path, overrides: Sequence[str], add: Sequence[str], held_out: bool, device: str | None
) -> tuple[ToveModel, list[Sample]]:
    """Return the model whose features are wanted, calibrated, and the samples whose images are.

    Raises:
        ConfigError: a trained model would be changed, an expert is to join what was not trained, or there are no
            held-out data.
    """
    from tove_core.cli.growth import growth_config
    from tove_core.config import RunConfig
    from tove_core.data.readers import read
    from tove_core.errors import ConfigError
    from tove_core.model import ToveModel
    from tove_core.settings import read_config
    from tove_core.training.run import CONFIG, starting_model

    trained = source.is_dir()
    if add and not trained:
        raise ConfigError(f"--add lets an expert join a trained run, and {source} is no folder; give the run's folder")
    if add:
        config = growth_config(source, add, None, overrides)
    elif trained:
        _require_same_model(source, overrides)
        config = read_config(RunConfig, source / CONFIG, overrides)
    else:
        config = read_config(RunConfig, source, overrides)
    wanted = _held_out(config, source) if held_out else None
    if trained and not add:
        # Its statistics are those it was trained with, whatever data it is shown now.
        model = ToveModel.from_pretrained(source, device=device)
        return model, read(wanted or config.data)
    samples = read(config.data)
    model = starting_model(config, samples, device=device)
    return model, read(wanted) if wanted else samples


def _require_same_model(run: Path, overrides: Sequence[str]) -> None:
    from tove_core.errors import ConfigError

    for text in overrides:
        if text.partition("=")[0].partition(".")[0].strip() not in ("data", "validation"):
            raise ConfigError(
                f"--set {text} does not reach the trained model of {run}; set keys of data and validation, or give the "
                "YAML file of another run"
            )


def _held_out(config: RunConfig, source: Path) -> DataConfig:
    from tove_core.errors import ConfigError
    from tove_core.training.run_data import held_out

    found = held_out(config)
    if found is None:
        raise ConfigError(f"{source} names no validation data and its data set has no test split; set data.path")
    return found


def _together(estimates: Sequence[Estimate]) -> Estimate:
    """Return what all processes have left to do."""
    from tove_core.data.cache.build import Estimate

    missing = {name: sum(one.missing[name] for one in estimates) for name in estimates[0].missing}
    images, nbytes = (sum(values) for values in zip(*((one.images, one.nbytes) for one in estimates), strict=True))
    return Estimate(images, missing, nbytes, min(one.free for one in estimates))


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
    print(f"needs up to {human_size(needed.nbytes)} in {out}; its disk has {human_size(needed.free)} free")


def _show_report(report: BuildReport, who: str) -> None:
    made = ", ".join(f"{name} {count:,}" for name, count in report.computed.items())
    told = f"of {report.images:,} images computed {made}; {report.present:,} images were there already"
    if report.alike:
        told += f"; {report.alike:,} {'has' if report.alike == 1 else 'have'} the content of another"
    if report.broken:
        told += f"; {len(report.broken):,} could not be read"
    print(f"{who}{told}")
    for name, reason in report.broken[:10]:
        typer.echo(f"broken: {name}: {reason}", err=True)
