"""`tove diagnose`: which kinds of question improve, through which expert, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tove_core.cli.data_options import DataPath, Images, Reader, SetData, Split
from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.lifecycle import Out, detach_rule
from tove_core.cli.places import Run, opened
from tove_core.cli.runs import Cached, Device, evaluation_data
from tove_core.cli.trained_on import tell_trained_on

if TYPE_CHECKING:
    from tove_core.config import DataConfig
    from tove_core.data.sample import Sample
    from tove_core.evaluation.saved import Saved


def diagnose(
    run: Run,
    out: Out,
    against: Annotated[
        str | None,
        typer.Option(help="another run or hub id, or a folder of tove evaluate --out; if not, RUN without experts"),
    ] = None,
    task: Annotated[str | None, typer.Option(help="what scores the questions, such as vqa; exact match if not")] = None,
    data: DataPath = None,
    reader: Reader = None,
    split: Split = None,
    images: Images = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only so many samples")] = None,
    set_: SetData = None,
    examples: Annotated[int, typer.Option(min=0, max=40, help="samples to show on which the two differ")] = 24,
    rule: Annotated[str | None, typer.Option(help="zero or renormalise; as the run's when not given")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="samples answered together")] = 128,
    beams: Annotated[int, typer.Option(min=1, help="beam search width")] = 1,
    cache: Cached = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Show which kinds of question a run answers better or worse than another, and through which of its experts.

    Every expert is switched off in turn. The folder gets index.html, one page with tables, intervals and examples with
    gate maps that needs nothing else, and the figures as diagnosis.json. Data are read as by tove evaluate.
    """
    from tove_core.checkpoint import require_decoder
    from tove_core.data.readers import read
    from tove_core.evaluation.diagnose import by_task
    from tove_core.evaluation.diagnose import diagnose as compare
    from tove_core.evaluation.references import references_of
    from tove_core.folders import require_new, require_writable
    from tove_core.model import ToveModel
    from tove_core.report.diagnosis_page import FIGURES, write_diagnosis
    from tove_core.training.run_data import build_source
    from tove_core.training.source import Offer, cache_of

    require_new(out)
    require_writable(out)
    place = opened(run)
    require_decoder(place)  # an unknown run is said before its data are looked for
    chosen = detach_rule(rule)
    wanted = evaluation_data(place, data, reader, split, limit, set_, images=images, name=run)
    tell_trained_on(place, wanted, run)
    other = opened(against) if against is not None else None
    if other is not None and not (data or reader or split):
        _require_same_data(place, other, limit)
    saved = _saved(other) if other is not None else None
    samples = read(wanted, key="--data")
    if saved is not None:  # one task's, where the data set mixes questions and captions
        samples = saved.answered(samples)
    by_task(references_of(samples), task)  # what is wrong with the data is said before any model is loaded
    options: dict[str, Any] = {"batch_size": batch_size, "max_broken": wanted.max_broken, "quiet": quiet}
    said = None
    tell_unused_gpu(device)
    if other is not None:
        # The other run's CLIP may be another, as a merged one's is: what is named for this run is offered to it.
        source = build_source(other, wanted)
        features = Offer(cache, source) if cache is not None else cache_of(other, source=source)
        if saved is not None:
            said = _kept(other, saved, samples, beams)
        else:
            said = _said(other, samples, device=device, num_beams=beams, cache=features, **options)
    model = ToveModel.from_pretrained(place, device=device)
    names = (run, against if against is not None else f"{run} without experts")
    found = compare(
        model, samples, said, names=names, wanted=task, rule=chosen, examples=examples, num_beams=beams,
        cache=cache_of(place, cache, build_source(place, wanted)), **options,
    )  # fmt: skip
    page = write_diagnosis(found, out)
    print(found)
    print(f"wrote {page} and {FIGURES} beside it")


def _require_same_data(run: Path, against: Path, limit: int | None) -> None:
    """Refuse two runs whose own held-out data differ, where nobody said which to take.

    Raises:
        ConfigError: they do.
    """
    from tove_core.errors import ConfigError
    from tove_core.training.run import CONFIG

    if not all((place / CONFIG).is_file() for place in (run, against)):
        return
    own, other = (evaluation_data(place, None, None, None, limit) for place in (run, against))
    free = {"max_broken", "limit"}
    if own.model_dump(exclude=free) != other.model_dump(exclude=free):
        told = [f"{place} on {_called(one)}" for place, one in ((run, own), (against, other))]
        raise ConfigError(
            f"{told[0]} and {told[1]} would be evaluated, which are different data; name one data set for both "
            "with --data, --reader or --split"
        )


def _called(data: DataConfig) -> str:
    """Return what data are called: their split too, where they are of a format that has some."""
    from tove_core.data.readers import reader

    return f"{data.path or data.reader}" + (f" ({data.split})" if reader(data.reader).splits else "")


def _said(
    against: Path, samples: list[Sample], *, num_beams: int, device: str | None, **options: Any
) -> dict[str, str]:
    """Return what the other's model says about the samples; it is then let go.

    Raises:
        CheckpointError: the path is neither a run nor a checkpoint.
    """
    from tove_core.checkpoint import require_decoder
    from tove_core.evaluation.probe import say
    from tove_core.hub.checkpoints import find_checkpoint
    from tove_core.model import ToveModel

    checkpoint = find_checkpoint(against)
    require_decoder(checkpoint)
    model = ToveModel.from_pretrained(checkpoint, device=device)
    return say(model, samples, num_beams=num_beams, **options)


def _saved(against: Path) -> Saved | None:
    """Return the evaluation in a folder, or a file of predictions; None for a run or a checkpoint.

    Raises:
        DataError: a file cannot be read.
    """
    from tove_core.evaluation.saved import PREDICTIONS, open_predictions
    from tove_core.hub.checkpoints import MANIFEST, find_checkpoint

    if (find_checkpoint(against) / MANIFEST).is_file():
        return None
    return open_predictions(against) if against.is_file() or (against / PREDICTIONS).is_file() else None


def _kept(against: Path, saved: Saved, samples: Sequence[Sample], num_beams: int) -> dict[str, str]:
    """Return what an evaluation says about the samples.

    Raises:
        ConfigError: its answers were generated otherwise.
        DataError: they are about other data.
    """
    from tove_core.errors import ConfigError
    from tove_core.evaluation.references import check_same_data, references_of

    if saved.references is not None:
        check_same_data(references_of(samples), saved.references, str(against))
    beams = saved.manifest.get("generation", {}).get("num_beams", num_beams)
    if beams != num_beams:
        raise ConfigError(
            f"{against} was answered with {beams} beams and the run would be with {num_beams}; give --beams {beams}"
        )
    return dict(saved.said)
