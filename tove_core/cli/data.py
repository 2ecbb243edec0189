"""`tove data`: look at data sets before anything is trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.places import file_of
from tove_core.cli.runs import Set

if TYPE_CHECKING:
    from tove_core.config import DataConfig
    from tove_core.data.check import DataReport

app = typer.Typer(help="Look at data sets.", no_args_is_help=True)

NAMED = 5
"""How many faults of a sort are named in the table; `--json` names them all."""

LONGEST = 400
"""Characters of a name or a sentence that the table shows; `--json` shows all."""


@app.callback()
def _group() -> None:
    """Look at data sets."""


@app.command("check")
def check_data(
    source: Annotated[
        str, typer.Argument(help="YAML file or folder of a run, or READER:PATH, as in pope:coco_pope_random.json")
    ],
    set_: Set = None,
    samples: Annotated[int, typer.Option(min=0, help="how many samples to show")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="only look whether images are there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for programs")] = False,
) -> None:
    """Count what a data set holds and find what is wrong with it; exit with code 1 where anything is.

    Malformed rows, missing and unreadable images, ids that come twice, and samples without target text are faults. Of a
    run its data and its validation data are read. With READER:PATH, --set changes keys of the data: --set split=val.
    """
    from tove_core.data.check import check
    from tove_core.data.files import path_key
    from tove_core.data.readers import collect
    from tove_core.data.sample import distinct_images
    from tove_core.progress import Display

    reports = []
    for name, config in _wanted(source, set_ or []).items():
        with path_key(_key(source, name)):
            parts = collect(config, malformed=True)
        for part in parts:
            images = len(distinct_images(part.samples[: part.limit])[0])
            with Display(images, f"look at {name}", quiet=as_json, every=5000) as display:
                report = check(
                    part, show=samples, decode=not quick, progress=lambda done, _, shown=display: shown.update(done)
                )
            reports.append((name, report))
            if not as_json:
                print("\n".join(_lines(name, report)))
    if as_json:
        print(json.dumps([{"data": name, **report.plain()} for name, report in reports], indent=2, ensure_ascii=False))
    if any(report.faults for _, report in reports):
        raise typer.Exit(1)


def _wanted(source: str, changes: list[str]) -> dict[str, DataConfig]:
    """Return the data that is meant, by what it is called.

    Raises:
        ConfigError: the source is neither a file nor names a reader.
    """
    from tove_core.config import DataConfig, RunConfig
    from tove_core.data.readers import READERS, reader
    from tove_core.errors import ConfigError
    from tove_core.settings import read_config

    name, colon, path = source.partition(":")
    file = file_of(Path(source))
    if _names_run(source) and name not in READERS:
        run = read_config(RunConfig, file, changes)
        return {"data": run.data, **({} if run.validation is None else {"validation": run.validation})}
    if not colon and name not in READERS and Path(source).exists():
        raise ConfigError(f"{source} is no configuration of a run; say what reads it: READER:{source}")
    reader(name)
    given = [f"reader={json.dumps(name)}", *([f"path={json.dumps(path)}"] if colon and path else [])]
    return {"data": read_config(DataConfig, None, [*given, *changes])}


def _names_run(source: str) -> bool:
    path = Path(source)
    return path.suffix in (".yaml", ".yml") or file_of(path) != path


def _key(source: str, name: str) -> str:
    """Return what sets the path of the data: a key of the run, or the end of READER:PATH."""
    return f"{name}.path" if _names_run(source) else "the PATH of READER:PATH"


def _lines(name: str, report: DataReport) -> list[str]:
    from tove_core.data.files import shortened

    asked = report.samples - report.captions
    rows = [
        ("samples", f"{report.samples:,} ({asked:,} with a question, {report.captions:,} without)"),
        ("images", f"{report.images:,} different; per sample {report.images_per_sample or '-'}"),
        ("sides", f"{report.sides} pixels" if report.sides else "not decoded"),
        ("targets", f"per sample {report.targets_per_sample or '-'}"),
        ("prompt words", str(report.prompt_words or "-")),
        ("target words", str(report.target_words or "-")),
        ("kinds", _kinds(report.kinds)),
    ]
    lines = [f"{name}: {report.where}", *(f"  {head:<16}{text}" for head, text in rows)]
    if not report.samples:
        cure = "repair its rows" if report.malformed else "give a file or a split that holds some"
        lines.append(f"  there are no samples in it, and nothing can be trained or scored; {cure}")
    faults = {"malformed rows": report.malformed, "missing images": report.missing}
    faults |= {"repeated ids": report.repeated, "without target": report.bare}
    if report.broken is not None:
        faults["broken images"] = report.broken
    for head, found in faults.items():
        lines.append(f"  {head:<16}{len(found):,}")
        lines += [f"    {shortened(one, LONGEST)}" for one in found[:NAMED]]
        lines += [f"    and {len(found) - NAMED:,} more"] if len(found) > NAMED else []
    for sample in report.shown:
        lines.append(f"  sample {sample.id!r}")
        lines += [f"    image   {shortened(key, LONGEST)}" for key in sample.image_keys]
        lines += [f"    prompt  {sample.prompt}"] if sample.prompt is not None else []
        lines += [f"    target  {text}" for text in sample.targets]
    return lines


def _kinds(kinds: dict[str, int]) -> str:
    most = sorted(kinds.items(), key=lambda item: -item[1])
    if set(kinds) <= {""}:
        return "-"
    told = ", ".join(f"{kind or '-'} {count:,}" for kind, count in most[:8])
    return told + (f" and {len(most) - 8} more" if len(most) > 8 else "")
