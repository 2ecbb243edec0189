"""`tove contributions`, `detach` and `merge`: take experts away again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.places import OwnRun, Run, opened, own_run
from tove_core.cli.runs import Cached, Device

SetMerge = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key of the merging: steps=500")
]
Out = Annotated[Path, typer.Option(help="folder for the result; it must not exist yet")]


def contributions(
    run: OwnRun,
    limit: Annotated[
        int,
        typer.Option(min=1, help="at most so many samples of the validation (else training) data, within its limit"),
    ] = 1000,
    rule: Annotated[str | None, typer.Option(help="zero or renormalise; as the run's when not given")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="samples seen and scored together")] = 128,
    cache: Cached = None,
    device: Device = None,
) -> None:
    """Measure what each expert's absence costs, in nats per answer token."""
    from tove_core.contribution import contributions as measure
    from tove_core.contribution import require_measurable
    from tove_core.data.readers import read
    from tove_core.model import ToveModel
    from tove_core.training.refusals import require_targets
    from tove_core.training.run import run_data, run_examples

    place, chosen = own_run(run, "tove contributions"), detach_rule(rule)
    tell_unused_gpu(device)
    model = ToveModel.from_pretrained(place, device=device)
    require_measurable(model, chosen)
    data = run_data(place, limit)
    samples = read(data)
    require_targets(samples)  # before their images are read
    examples = run_examples(place, model, data, samples, cache=cache)
    found = measure(model, examples, rule=chosen, batch_size=batch_size, quiet=False)
    print(f"{'expert':<28}{'loss without it':>16}{'gated norm':>12}{'gate mass':>11}")
    for one in found:
        norm, mass = (f"{value:.3f}" if value is not None else "-" for value in (one.norm, one.mass))
        print(f"{one.expert:<28}{one.loss:>+16.4f}{norm:>12}{mass:>11}")
    print("gate mass is not a measure of contribution; the loss is")


def detach(
    run: Run,
    experts: Annotated[list[str], typer.Argument(help="names of experts to take out")],
    out: Out,
    rule: Annotated[str | None, typer.Option(help="zero or renormalise; as the run's when not given")] = None,
) -> None:
    """Take experts out of a run: they are unloaded and their tensors leave the checkpoint."""
    from tove_core.checkpoint import load, read_manifest
    from tove_core.folders import require_new, require_writable
    from tove_core.training.run import describe_run

    chosen = detach_rule(rule)
    require_new(out)
    require_writable(out)
    place = opened(run)
    saved = read_manifest(place)
    gone = saved.off | dict.fromkeys(experts, chosen or saved.config.fusion.rule)
    model = load(place, without=gone)  # type: ignore[arg-type]
    model.save_pretrained(out)
    describe_run(place, out, model)
    print(f"wrote {out} with {', '.join(model.active_experts) or 'no experts'}")


def merge(
    run: OwnRun,
    out: Out,
    set_: SetMerge = None,
    control: Annotated[bool, typer.Option("--control", help="language loss alone: the fair comparison")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many samples of the training data")] = None,
    seed: Annotated[int, typer.Option(help="order of the samples")] = 0,
    cache: Cached = None,
    device: Device = None,
) -> None:
    """Train a copy of the CLIP tower to give the enhanced tokens by itself, and write it as a CLIP folder."""
    from tove_core.config import MergeConfig
    from tove_core.data.readers import read
    from tove_core.folders import require_new, require_writable
    from tove_core.merging.merge import merge as train_tower
    from tove_core.merging.merge import require_mergeable
    from tove_core.merging.write import Merging, write_merged
    from tove_core.model import ToveModel
    from tove_core.settings import read_config
    from tove_core.training.refusals import require_targets
    from tove_core.training.run import describe_run, run_data, run_examples

    for text in set_ or []:
        _require_key_of_merging(text)
    config = read_config(MergeConfig, None, [*(set_ or []), *(["control=true"] if control else [])])
    require_new(out)
    require_writable(out)
    place = own_run(run, "tove merge")
    tell_unused_gpu(device)
    model = ToveModel.from_pretrained(place, device=device)
    require_mergeable(model, config)
    data = run_data(place, limit, train=True)
    samples = read(data)
    require_targets(samples)  # before their images are read
    examples = run_examples(place, model, data, samples, cache=cache)
    merged = train_tower(model, examples, config, seed=seed)
    write_merged(merged, out, Merging(run=place, seed=seed, limit=limit, samples=len(examples), merge=config))
    describe_run(place, out, merged)
    if (out / "open_clip_config.json").is_file():
        print(f"wrote {out}; open_clip.create_model('local-dir:{out}') loads it")
    else:
        print(f"wrote {out}; transformers loads it, and tove as clip.name=hf:{out}")


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
