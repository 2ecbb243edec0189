"""`tove score`: score predictions without the model, alone or one run against another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tove_core.evaluation.references import Reference
    from tove_core.evaluation.run import Saved


def score(
    predictions: Annotated[Path, typer.Argument(help="folder of tove evaluate --out, or a file of predictions")],
    task: Annotated[str | None, typer.Option(help="what is scored; the folder's own task when not given")] = None,
    against: Annotated[
        Path | None, typer.Option(help="another such folder or file: compare, with paired tests")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="data set, where no references lie beside the predictions")] = None,
    reader: Annotated[str, typer.Option(help="name of the reader of --data")] = "jsonl",
    split: Annotated[str, typer.Option(help="which part of --data")] = "train",
    images: Annotated[Path | None, typer.Option(help="folder of the images of --data")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="also write the figures here")] = None,
) -> None:
    """Score predictions without the model, each metric with its 95 % interval.

    Takes the folder that tove evaluate --out wrote, or anybody's JSONL of id and prediction (COCO's and VQA's result
    files too) with --data. Missing, extra and repeated ids are errors.
    """
    import json as encoder

    from tove_core.evaluation.compare import compare_predictions
    from tove_core.evaluation.report import report
    from tove_core.evaluation.run import open_predictions
    from tove_core.evaluation.tasks import task as find
    from tove_core.evaluation.tasks import task_for

    saved = open_predictions(predictions)
    references = _references(predictions, saved, data, reader, split, images)
    name = task or saved.task
    chosen = find(name) if name else task_for(references)
    if against is None:
        found = report(chosen, saved.said, references)
    else:
        other = open_predictions(against)
        theirs = other.references if data is None else None
        found = compare_predictions(chosen, saved.said, other.said, references, theirs)
        print(f"A: {predictions}\nB: {against}")
    print(found)
    if json is not None:
        json.write_text(encoder.dumps(found.plain(), indent=2) + "\n", encoding="utf-8")
        print(f"wrote {json}")


def _references(
    path: Path, saved: Saved, data: Path | None, reader: str, split: str, images: Path | None
) -> list[Reference]:
    """Return what is right: of `--data`, else what lies beside the predictions."""
    from tove_core.config import DataConfig
    from tove_core.data.readers import read
    from tove_core.errors import ConfigError
    from tove_core.evaluation.references import references_of

    if data is not None:
        return references_of(read(DataConfig(reader=reader, path=data, split=split, images=images)))
    if saved.references is None:
        raise ConfigError(f"no references lie beside {path}, so nothing says what is right; give --data and --reader")
    return saved.references
