"""`tove score`: score predictions without the model, alone or one run against another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tove_core.cli.runs import SetData

if TYPE_CHECKING:
    from tove_core.evaluation.references import Reference
    from tove_core.evaluation.saved import Saved


def score(
    predictions: Annotated[Path, typer.Argument(help="folder of tove evaluate --out, or a file of predictions")],
    task: Annotated[str | None, typer.Option(help="what is scored; the folder's own task when not given")] = None,
    against: Annotated[
        Path | None, typer.Option(help="another such folder or file: compare, with paired tests")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="data set, where no references lie beside the predictions")] = None,
    reader: Annotated[str | None, typer.Option(help="name of the reader of --data; jsonl if not given")] = None,
    split: Annotated[str | None, typer.Option(help="which part of the data set; test where it has parts")] = None,
    images: Annotated[Path | None, typer.Option(help="folder of the images of --data")] = None,
    set_: SetData = None,
    json: Annotated[Path | None, typer.Option("--json", help="also write the figures here")] = None,
) -> None:
    """Score predictions without the model, each metric with its 95 % interval.

    Takes the folder that tove evaluate --out wrote, or anybody's JSONL of id and prediction (COCO's and VQA's result
    files too) with --data. Missing, extra and repeated ids are errors. A task that is named takes the samples it
    scores.
    """
    import json as encoder

    from tove_core.evaluation.compare import compare_predictions
    from tove_core.evaluation.report import report
    from tove_core.evaluation.saved import OTHER_TASK, open_predictions, told
    from tove_core.evaluation.tasks import scored_by, task_for
    from tove_core.evaluation.tasks import task as find
    from tove_core.folders import require_place

    if json is not None:
        require_place(json, "--json")
    saved = open_predictions(predictions)
    other = open_predictions(against) if against is not None else None
    told_by = _references(predictions, saved, data, reader, split, images, set_)
    references, left_out = told_by
    name = task or saved.task
    chosen = find(name) if name else task_for(references)
    scored = scored_by(chosen, references)
    if len(scored) < len(references):
        left_out[OTHER_TASK] = left_out.get(OTHER_TASK, 0) + len(references) - len(scored)
    out = {one.id for one in references} - {one.id for one in scored}
    said = _said(predictions, saved, scored, out)
    if other is None or against is None:
        found = report(chosen, said, scored)
    else:
        found = compare_predictions(chosen, said, _said(against, other, scored, out), scored)
        print(f"A: {predictions}\nB: {against}")
    print(found)
    if line := told(left_out):
        print(line)
    if json is not None:
        plain = {**found.plain(), "left_out": left_out}
        json.write_text(encoder.dumps(plain, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {json}")
