"""`tove train` and `tove evaluate`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.data_options import DataPath, Images, Reader, SetData, Split
from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.places import Run, file_of, opened
from tove_core.cli.trained_on import tell_trained_on

if TYPE_CHECKING:
    from tove_core.config import DataConfig, ModelConfig
    from tove_core.training.launch import Launch

Device = Annotated[str | None, typer.Option(help="where to run, such as cuda:0; the CPU when not given")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key: training.steps=50")]

Report = Annotated[Path | None, typer.Option("--report", metavar="FILE", help="also write the figures here, as JSON")]
"""The option `--report` of commands that score."""

NodeRank = Annotated[
    int | None, typer.Option(min=0, help="with --nnodes: this machine's number, from 0; 0 when not given")
]
Endpoint = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="where several machines meet: on the first of them")
]

Cached = Annotated[
    Path | None,
    typer.Option(help="read features from this cache; if not given, from the run's own, where it holds the images"),
]
"""The option `--cache` of commands on a run."""

Licenses = Annotated[
    str | None, typer.Option(help="refuse experts whose weights do not allow it: commercial, or strict")
]


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file; with --resume or --add, the folder of a run")
    ],
    set_: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on exactly where the run stopped")] = False,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPERT", help="let an expert join the trained run and train what belongs to it alone"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="with --add: folder of the new run; RUN+EXPERT if not given")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="with --add: only so many held-out samples to measure on; all if not given"),
    ] = None,
    licenses: Licenses = None,
    device: Device = None,
    nproc: Annotated[int, typer.Option(min=1, help="processes that train together on this machine")] = 1,
    nnodes: Annotated[int, typer.Option(min=1, help="machines that train together, each started alike")] = 1,
    node_rank: NodeRank = None,
    rdzv_endpoint: Endpoint = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Train the fusion and the decoder of the model a configuration describes, or experts that join a trained run.

    Experts that join leave everything else bit for bit as it was; what they bring is measured on held-out data.
    """
    from tove_core.config import RunConfig
    from tove_core.errors import ConfigError
    from tove_core.settings import read_config
    from tove_core.training.launch import Launch

    if resume and (set_ or add or licenses):
        raise ConfigError(
            "a resumed run keeps its configuration; --resume and --set, --add or --licenses exclude each other"
        )
    if out is not None and not add:
        raise ConfigError("--out goes with --add; the folder of other runs is their configuration's output")
    if add and licenses:
        raise ConfigError("an expert that joins is held to the policy of its hub; --licenses cannot stand beside --add")
    if limit is not None and not (resume or add):
        raise ConfigError("--limit goes with --add, whose experts are measured; data.limit bounds what is trained on")
    if not (resume or add) and file_of(config) != config:
        raise ConfigError(
            f"{config} is the folder of a run: --resume goes on with it, and --add EXPERT lets an expert join it"
        )
    launch = Launch(nproc, nnodes, node_rank, rdzv_endpoint)
    if launch.is_needed:
        # A configuration that cannot be read is said once, and not by every process.
        if not (resume or add):
            read_config(RunConfig, config, set_ or [])
        launch.start(_words(config, set_ or [], resume, add or [], out, limit, licenses, device, quiet, launch))
        return
    # Only what trains imports what that takes.
    from tove_core.cli.growth import growth_config, held_out_samples, report_growth
    from tove_core.training.processes import is_first

    processes = launch.processes if launch.processes > 1 else None
    if resume:
        from tove_core.training.run import CONFIG
        from tove_core.training.run import resume as go_on

        if limit is not None and (config / CONFIG).is_file() and read_config(RunConfig, config / CONFIG).growth is None:
            raise ConfigError(f"--limit is for experts that join a run, and none join {config}; leave it out")
        tell_unused_gpu(device)
        model, held = go_on(config, device=device, quiet=quiet, processes=processes), None
        wanted = read_config(RunConfig, config / CONFIG).model_copy(update={"output": config})
    else:
        wanted = growth_config(config, add, out, set_ or []) if add else read_config(RunConfig, config, set_ or [])
        wanted = wanted.model_copy(update={"model": with_policy(wanted.model, licenses)})
        held = held_out_samples(wanted, limit)
        tell_unused_gpu(device)
        from tove_core.training.run import train as start

        model = start(wanted, device=device, quiet=quiet, processes=processes)
    if is_first():
        print(f"wrote {wanted.output / 'checkpoint'}; 'tove evaluate {quote(str(wanted.output))}' scores it")
        report_growth(wanted, model, held or held_out_samples(wanted, limit), quiet=quiet)


def _words(
    config: Path,
    set_: list[str],
    resume: bool,
    add: list[str],
    out: Path | None,
    limit: int | None,
    licenses: str | None,
    device: str | None,
    quiet: bool,
    launch: Launch,
) -> list[str]:
    """Return the command each of several processes is started with: the same, so that it knows how many they are."""
    flags = [word for word, given in (("--resume", resume), ("--quiet", quiet)) if given]
    named = [("--set", value) for value in set_] + [("--add", value) for value in add]
    named += [
        ("--out", out and str(out)),
        ("--limit", limit and str(limit)),
        ("--licenses", licenses),
        ("--device", device),
    ]
    return [
        "train",
        str(config),
        *flags,
        *(word for name, value in named if value for word in (name, value)),
        *launch.words(),
    ]


def with_policy(model: ModelConfig, word: str | None) -> ModelConfig:
    """Return the configuration with the policy of `--licenses`; what its own policy allows and denies stays.

    Raises:
        ConfigError: there is no such policy.
    """
    from tove_core.errors import ConfigError
    from tove_core.licenses import LicensePolicy

    if word is None:
        return model
    if word not in ("commercial", "strict"):
        raise ConfigError(f"there is no --licenses {word!r}; choose commercial or strict")
    asked, own = LicensePolicy.named(word), model.licenses or LicensePolicy()
    policy = own.model_copy(update={"commercial": True, "strict": own.strict or asked.strict})
    return model.model_copy(update={"licenses": policy})


def evaluate(
    run: Run,
    task: Annotated[
        str | None,
        typer.Option(
            help="what is scored: captions, exact-match, vqa, gqa, pope, vsr or nlvr; by the data if not given. "
            "Needed with --out where data mix questions and captions"
        ),
    ] = None,
    data: DataPath = None,
    reader: Reader = None,
    split: Split = None,
    images: Images = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many samples")] = None,
    set_: SetData = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of predictions, manifest and scores; a stopped evaluation goes on there")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="write what the model said here, as JSONL")] = None,
    no_score: Annotated[
        bool, typer.Option("--no-score", help="with --out: only answer, so that data need no targets")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="samples answered together")] = 128,
    beams: Annotated[int, typer.Option(min=1, help="beam search width")] = 1,
    cache: Cached = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Score a run: answers by exact match with the majority answer beside it, captions by COCO's metrics.

    Every score has an interval. Without --data, --reader and --split it is scored on its validation data, where its
    configuration names some, else on its data set's test split; of a format without splits that is the training data,
    with a note. With --out the folder can be scored again with tove score. A task that is named takes the samples it
    scores.
    """
    from tove_core.checkpoint import require_decoder
    from tove_core.data.readers import read_counted
    from tove_core.errors import ConfigError
    from tove_core.evaluation.manifest import MANIFEST
    from tove_core.evaluation.predictions import write_predictions
    from tove_core.evaluation.run import evaluate_into, evaluate_once
    from tove_core.evaluation.saved import REFERENCES, is_predictions
    from tove_core.folders import require_own_folder, require_place, require_writable
    from tove_core.hub.placement import usable_device
    from tove_core.training.processes import is_first, own_device
    from tove_core.training.run_data import build_source
    from tove_core.training.source import cache_of, workers_of

    require_place(predictions, "--predictions", is_predictions)
    if no_score and out is None:
        raise ConfigError("--no-score keeps what is said in a folder to be scored later; give --out")
    if out is not None:
        require_own_folder(out, (MANIFEST, REFERENCES), "test")
        require_writable(out)
    usable_device(own_device(device) or "cpu", "--device")
    place = opened(run)
    require_decoder(place)  # an unknown run is said before its data are looked for
    tell_unused_gpu(device)
    wanted = evaluation_data(place, data, reader, split, limit, set_, images=images, name=run)
    if not no_score:
        tell_trained_on(place, wanted, run)
    samples, missing = read_counted(wanted, inference=no_score, key="--data")
    source = cache_of(place, cache, build_source(place, wanted))
    options = {"device": device, "batch_size": batch_size, "num_beams": beams, "cache": source, "quiet": quiet}
    if out is not None:
        found = evaluate_into(out, place, wanted, samples, task, missing=missing, scored=not no_score, **options)
    else:
        found = evaluate_once(
            place, samples, task, missing=missing, max_broken=wanted.max_broken, workers=workers_of(place), **options
        )
    if not is_first():
        return
    print(found)
    if predictions is not None:
        write_predictions(predictions, found.said)
        print(f"wrote {predictions}")


def evaluation_data(
    run: Path,
    data: Path | None,
    reader: str | None,
    split: str | None,
    limit: int | None,
    changes: list[str] | None = None,
    *,
    images: Path | None = None,
    name: str | None = None,
) -> DataConfig:
    """Return what `evaluate` reads: the options, and the run's own configuration where they say nothing.

    Args:
        name: how the run was named, which is not its folder where it came from the hub.

    Raises:
        ConfigError: one of `changes`, `key=value`, does not fit, or nothing says which data.
    """
    from tove_core.config import DataConfig, RunConfig
    from tove_core.data.readers import WITH_SPLITS, options_for
    from tove_core.errors import ConfigError
    from tove_core.settings import read_config
    from tove_core.training.run import CONFIG

    saved = read_config(RunConfig, run / CONFIG) if (run / CONFIG).is_file() else None
    if not (saved or data or reader or changes):
        raise ConfigError(f"{name or run} does not say which data its model was made for; give --data, and --reader")
    own = saved.data if saved else DataConfig()
    if saved and not (data or reader or split) and (saved.validation or own.mixture):
        found = saved.validation or own
        changed = {"limit": limit or found.limit, "images": images or found.images}
        return changed_data(found.model_copy(update=changed), changes)
    chosen = reader or own.reader
    split = split or ("test" if chosen in WITH_SPLITS else own.split)
    # Options and tiles are those of the run's own reader; another one starts with none.
    kept = {"options": options_for(split, own), "tiles": own.tiles} if chosen == own.reader else {}
    wanted = DataConfig(
        reader=chosen,
        path=data or own.path,
        images=images or (own.images if data is None else None),  # another data set's images lie elsewhere
        split=split,
        limit=limit,
        max_broken=own.max_broken,
        **kept,
    )
    return changed_data(wanted, changes)


def named_data(
    reader: str,
    data: Path | None,
    split: str | None,
    limit: int | None,
    changes: list[str] | None,
    images: Path | None = None,
) -> DataConfig:
    """Return the data set that the options of a command name.

    Raises:
        ConfigError: one of `changes`, `key=value`, does not fit.
    """
    from tove_core.config import DataConfig
    from tove_core.data.readers import WITH_SPLITS

    split = split or ("test" if reader in WITH_SPLITS else None)
    given = {"reader": reader, "path": data, "limit": limit, "split": split, "images": images}
    return changed_data(DataConfig(**{key: value for key, value in given.items() if value is not None}), changes)


def changed_data(data: DataConfig, changes: list[str] | None) -> DataConfig:
    """Return data with the keys of `--set` changed.

    Raises:
        ConfigError: one, `key=value`, does not fit.
    """
    import json

    from tove_core.config import DataConfig
    from tove_core.settings import read_config

    plain = data.model_dump(mode="json", exclude_defaults=True)
    given = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    return read_config(DataConfig, None, [*given, *changes]) if changes else data
