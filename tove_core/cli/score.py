"""`tove score`: score predictions without the model, alone or one run against another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.data_options import Images, SetData, Split
from tove_core.cli.runs import Report, named_data

if TYPE_CHECKING:
    from tove_core.config import DataConfig
    from tove_core.evaluation.references import Reference
    from tove_core.evaluation.saved import Saved


def score(
    predictions: Annotated[Path, typer.Argument(help="folder of tove evaluate --out, or a file of predictions")],
    task: Annotated[str | None, typer.Option(help="what is scored; the folder's own task when not given")] = None,
    against: Annotated[
        Path | None, typer.Option(help="another such folder or file: compare, with paired tests")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="data set, where no references lie beside the predictions")] = None,
    reader: Annotated[str | None, typer.Option(help="name of the reader of the data set; jsonl if not given")] = None,
    split: Split = None,
    images: Images = None,
    set_: SetData = None,
    report_file: Report = None,
) -> None:
    """Score predictions without the model, each metric with its 95 % interval.

    Takes the folder that tove evaluate --out wrote, or anybody's JSONL of id and prediction (COCO's and VQA's result
    files too) with --data. Missing, extra and repeated ids are errors. A task that is named takes the samples it
    scores.
    """
    from tove_core.evaluation.compare import compare_predictions
    from tove_core.evaluation.report import report
    from tove_core.evaluation.saved import divide, is_report, matching, open_predictions, told
    from tove_core.evaluation.tasks import task as find
    from tove_core.evaluation.tasks import task_for
    from tove_core.folders import require_place, write_file

    require_place(report_file, "--report", is_report)
    chosen = find(task) if task else None
    saved = open_predictions(predictions)
    other = open_predictions(against) if against is not None else None
    named = data or reader or split or images or set_
    wanted = named_data(reader or "jsonl", data, split, None, set_, images=images) if named else None
    references, left_out = _references(predictions, saved, wanted)
    chosen = chosen or (find(saved.task) if saved.task else task_for(references))
    unreadable = saved.unreadable | (other.unreadable if other is not None else frozenset())
    scored, out = divide(chosen, references, unreadable, left_out)
    said = matching(predictions, saved, scored, out)
    if other is None or against is None:
        found = report(chosen, said, scored)
    else:
        found = compare_predictions(chosen, said, matching(against, other, scored, out), scored)
        print(f"A: {predictions}\nB: {against}")
    print(found)
    if line := told(left_out):
        print(line)
    if report_file is not None:
        write_file(report_file, json.dumps({**found.plain(), "left_out": left_out}, indent=2) + "\n")
        print(f"wrote {report_file}")


def _references(path: Path, saved: Saved, data: DataConfig | None) -> tuple[list[Reference], dict[str, int]]:
    """Return what is right: of the data set that is named, else what lies beside; and how many samples are not there.

    Raises:
        ConfigError: neither says what is right.
    """
    from tove_core.data.readers import read_counted
    from tove_core.errors import ConfigError
    from tove_core.evaluation.references import references_of
    from tove_core.evaluation.saved import MISSING

    if data is not None:
        found = read_counted(data, key="--data")
        return references_of(found.samples), {MISSING: found.missing} if found.missing else {}
    if saved.references is None and not saved.said:
        raise ConfigError(f"{path} is empty; give a file of predictions")
    if saved.references is None:
        raise ConfigError(f"no references lie beside {path}, so nothing says what is right; give --data and --reader")
    if not all(one.targets for one in saved.references):
        raise ConfigError(
            f"the references beside {path} hold no targets, because its evaluation was not to be scored; give --data "
            "and --reader of a data set that does"
        )
    return saved.references, saved.left_out
