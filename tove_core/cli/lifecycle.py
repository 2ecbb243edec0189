"""`tove contributions`, `detach`, `select` and `merge`: take experts away again, or run them where they help."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.data_options import DataPath, Images, Reader, SetData, Split
from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.places import OwnRun, Run, opened, own_run
from tove_core.cli.runs import Cached, Device, changed_data

if TYPE_CHECKING:
    from tove_core.config import DataConfig
    from tove_core.data.sample import Sample

SetMerge = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="change a key of the merging, steps=500, or of the data: data.max_broken=0.1",
    ),
]
Out = Annotated[Path, typer.Option(help="folder for the result; empty, or not there yet")]


def contributions(
    run: OwnRun,
    limit: Annotated[
        int,
        typer.Option(min=1, help="at most so many samples of the validation (else training) data, within its limit"),
    ] = 1000,
    rule: Annotated[str | None, typer.Option(help="zero or renormalise; as the run's when not given")] = None,
    data: DataPath = None,
    reader: Reader = None,
    split: Split = None,
    images: Images = None,
    set_: SetData = None,
    batch_size: Annotated[int, typer.Option(min=1, help="samples seen and scored together")] = 128,
    cache: Cached = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Measure what each expert's absence costs, in nats per answer token."""
    from tove_core.contribution import contributions as measure
    from tove_core.contribution import require_measurable
    from tove_core.model import ToveModel
    from tove_core.training.refusals import require_targets
    from tove_core.training.run_data import run_examples

    place, chosen = own_run(run, "tove contributions"), detach_rule(rule)
    tell_unused_gpu(device)
    with redirect_stdout(sys.stderr):  # experts may print when they are run
        model = ToveModel.from_pretrained(place, device=device)
        require_measurable(model, chosen)
        wanted, samples = _samples(place, data, reader, split, images, set_, limit)
        require_targets(samples)  # before their images are read
        examples = run_examples(place, model, wanted, samples, cache=cache, quiet=quiet)
        found = measure(model, examples, rule=chosen, batch_size=batch_size, quiet=quiet)
    if as_json:
        told = {"run": run, "rule": chosen or model.config.fusion.rule, "experts": [asdict(one) for one in found]}
        print(json.dumps(told, indent=2))
        return
    print(f"{'expert':<28}{'loss increase without it':>26}{'gated norm':>12}{'gate mass':>11}")
    for one in found:
        norm, mass = (f"{value:.3f}" if value is not None else "-" for value in (one.norm, one.mass))
        print(f"{one.expert:<28}{one.loss:>+26.4f}{norm:>12}{mass:>11}")
    print("the loss increase is in nats per answer token; gate mass is not a measure of contribution")


def detach(
    run: Run,
    experts: Annotated[list[str], typer.Argument(metavar="EXPERT...", help="names of experts to take out")],
    out: Out,
    rule: Annotated[
        str | None, typer.Option(help="zero or renormalise; if not given, as it is off already, else as the run's")
    ] = None,
) -> None:
    """Take experts out of a run: they are unloaded and their tensors leave the checkpoint."""
    from tove_core.checkpoint import load, read_manifest
    from tove_core.folders import require_new, require_writable
    from tove_core.training.run_data import describe_run

    chosen = detach_rule(rule)
    require_new(out)
    require_writable(out)
    place = opened(run)
    saved = read_manifest(place)
    # What is off already leaves too, by the rule it is off by.
    gone = saved.off | {name: chosen or saved.off.get(name, saved.config.fusion.rule) for name in experts}
    model = load(place, without=gone)  # type: ignore[arg-type]
    model.save_pretrained(out, full=saved.full)
    describe_run(place, out, model)
    rules = ", ".join(f"{name} by {rule}" for name, rule in gone.items())
    print(f"wrote {out}, without {rules}, with {', '.join(model.active_experts) or 'no experts'}")


def select(
    run: OwnRun,
    out: Out,
    budget: Annotated[
        float, typer.Option(help="mean cost of an image, as a share of running all experts, such as 0.5")
    ],
    cost: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPERT=NUMBER", help="cost of an expert, in any one unit; operations if none is given"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps of learning")] = 500,
    batch_size: Annotated[int, typer.Option(min=1, help="samples learnt from, or measured, together")] = 128,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="at most so many samples of the validation (else training) data, within its limit"),
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="take the training data, validation data or not")] = False,
    seed: Annotated[int, typer.Option(help="decides the selector's start, the samples' order and their parts")] = 0,
    data: DataPath = None,
    reader: Reader = None,
    split: Split = None,
    images: Images = None,
    set_: SetData = None,
    cache: Cached = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Learn from CLIP's tokens which experts an image deserves, under a budget; compare that with fixed choices."""
    from tove_core.checkpoint import read_manifest
    from tove_core.errors import ConfigError
    from tove_core.folders import require_new, require_writable
    from tove_core.model import ToveModel
    from tove_core.selection import require_selectable
    from tove_core.selection import select as learn_to_select
    from tove_core.selection.costs import require_costs
    from tove_core.selection.parts import require_images
    from tove_core.selection.report import SELECTION
    from tove_core.settings import write_config
    from tove_core.training.run_data import describe_run, run_examples

    costs = _costs(cost or [])
    if not 0 < budget < 1:
        raise ConfigError(f"--budget is {budget:g}; give a share of the cost of all experts, above 0 and below 1")
    require_new(out)
    require_writable(out)
    place = own_run(run, "tove select")
    tell_unused_gpu(device)
    model = ToveModel.from_pretrained(place, device=device)
    require_selectable(model, budget)
    require_costs(model, costs)
    wanted, samples = _samples(place, data, reader, split, images, set_, limit, train=train)
    require_images(samples, seed)
    examples = run_examples(place, model, wanted, samples, cache=cache, quiet=quiet)
    options = {"steps": steps, "batch_size": batch_size, "seed": seed}
    report = learn_to_select(model, examples, budget, costs=costs, quiet=quiet, **options)
    model.save_pretrained(out, full=read_manifest(place).full)
    describe_run(place, out, model)
    write_config(report.model_copy(update={"run": place, "limit": limit}), out / SELECTION)
    print(report)
    print(f"wrote {out}, which selects experts")


def _costs(given: list[str]) -> dict[str, float] | None:
    """Return the costs of `--cost`, None where none was given.

    Raises:
        ConfigError: one is no name and number, or a name comes twice.
    """
    from tove_core.errors import ConfigError

    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            name = ""
        if not name or name in found:
            raise ConfigError(f"--cost {text} cannot be used; give each expert once, with a number: --cost depth=3.5")
        found[name] = value
    return found or None


def merge(
    run: OwnRun,
    out: Out,
    set_: SetMerge = None,
    control: Annotated[bool, typer.Option("--control", help="language loss alone: the fair comparison")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many samples of the training data")] = None,
    data: DataPath = None,
    reader: Reader = None,
    split: Split = None,
    images: Images = None,
    seed: Annotated[int, typer.Option(help="order of the samples")] = 0,
    cache: Cached = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Train a copy of the CLIP tower to give the enhanced tokens by itself, and write it as a CLIP folder."""
    from tove_core.config import MergeConfig
    from tove_core.folders import require_new, require_writable
    from tove_core.merging.merge import merge as train_tower
    from tove_core.merging.merge import require_mergeable
    from tove_core.merging.write import Merging, write_merged
    from tove_core.model import ToveModel
    from tove_core.settings import read_config
    from tove_core.training.refusals import require_targets
    from tove_core.training.run_data import describe_run, run_examples

    of_data = [text.strip()[len("data.") :] for text in set_ or [] if text.strip().startswith("data.")]
    of_merging = [text for text in set_ or [] if not text.strip().startswith("data.")]
    for text in of_merging:
        _require_key_of_merging(text)
    config = read_config(MergeConfig, None, [*of_merging, *(["control=true"] if control else [])])
    require_new(out)
    require_writable(out)
    place = own_run(run, "tove merge")
    tell_unused_gpu(device)
    model = ToveModel.from_pretrained(place, device=device)
    require_mergeable(model, config)
    wanted, samples = _samples(place, data, reader, split, images, of_data, limit, train=True)
    require_targets(samples)  # before their images are read
    examples = run_examples(place, model, wanted, samples, cache=cache, quiet=quiet)
    merged = train_tower(model, examples, config, seed=seed, quiet=quiet)
    write_merged(merged, out, Merging(run=place, seed=seed, limit=limit, samples=len(examples), merge=config))
    named = bool(data or reader or split or images or of_data)
    describe_run(place, out, merged, wanted if named else None)
    if (out / "open_clip_config.json").is_file():
        print(f"wrote {out}; open_clip.create_model('local-dir:{out}') loads it")
    else:
        print(f"wrote {out}; transformers loads it, and tove as clip.name=hf:{out}")


def _samples(
    run: Path,
    data: Path | None,
    reader: str | None,
    split: str | None,
    images: Path | None,
    changes: list[str] | None,
    limit: int | None,
    *,
    train: bool = False,
) -> tuple[DataConfig, list[Sample]]:
    """Return a run's validation samples (training's, where it has none or `train` is set), or those that are named.

    Raises:
        CheckpointError: the folder holds no run.
        DataError: they cannot be read.
    """
    from tove_core.config import DataConfig, RunConfig
    from tove_core.data.readers import options_for, read
    from tove_core.settings import read_config
    from tove_core.training.run import CONFIG
    from tove_core.training.run_data import run_data

    wanted = run_data(run, limit, train=train)
    if data or reader or split or images:
        options = options_for(split or wanted.split, wanted)
        own = {"options": options, "tiles": wanted.tiles, "split": wanted.split}
        kept = own if reader in (None, wanted.reader) else {}
        kept |= {"split": split} if split else {}
        place = images or (wanted.images if data is None else None)  # another data set's images lie elsewhere
        wanted = DataConfig(
            reader=reader or wanted.reader, path=data or wanted.path, images=place, limit=wanted.limit,
            max_broken=wanted.max_broken, **kept,
        )  # fmt: skip
    wanted = changed_data(wanted, changes)
    validated = not train and read_config(RunConfig, run / CONFIG).validation is not None
    section = "validation" if validated else "data"
    return wanted, read(wanted, key=f"{section}.path in {run / CONFIG}, or --data,")


def _require_key_of_merging(override: str) -> None:
    """Refuse a key as a run's configuration has it, `training.steps`, where merging has it by itself.

    Raises:
        ConfigError: it is one.
    """
    from tove_core.config import MergeConfig
    from tove_core.errors import ConfigError

    key, _, value = override.partition("=")
    section, _, name = key.strip().rpartition(".")
    if section and name in MergeConfig.model_fields:
        raise ConfigError(
            f"--set {override} is a key of a run, and merging has keys of its own; give --set {name}={value}"
        )


def detach_rule(text: str | None):  # type: ignore[no-untyped-def]
    """Return the rule of `--rule`, None where none was given.

    Raises:
        ConfigError: there is no such rule.
    """
    from tove_core.errors import ConfigError

    if text in (None, "zero", "renormalise"):
        return text
    raise ConfigError(f"there is no rule {text!r}; wanted zero or renormalise")
