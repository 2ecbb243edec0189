"""`tove clip`: what a CLIP knows without training, such as one that `tove merge` wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tove_core.cli.data_options import Images, SetData, Split
from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.runs import Device, Report, named_data

if TYPE_CHECKING:
    from tove_core.config import DataConfig
    from tove_core.data.sample import Sample
    from tove_core.evaluation.clip_report import Measure
    from tove_core.hub.view import View
    from tove_core.tower.base import Tower

app = typer.Typer(
    help="Score what a CLIP knows without training for it: classes, retrieval, CLIPScore.", no_args_is_help=True
)

Clip = Annotated[
    str, typer.Argument(help="folder of a merged run or of any CLIP, else a name as clip.name has it: ViT-B-16/openai")
]
Data = Annotated[Path | None, typer.Option(metavar="PATH", help="file or folder of the data set")]
Reader = Annotated[str, typer.Option(metavar="NAME", help="what reads it")]
Limit = Annotated[int | None, typer.Option(min=1, help="only so many samples")]
Kind = Annotated[str | None, typer.Option(help="only samples of this kind")]
ViewName = Annotated[str, typer.Option(help="what is seen of an image: squash, crop or pad")]
Own = Annotated[bool, typer.Option("--own-transform", help="score once more as the CLIP's own transform sees images")]
BatchSize = Annotated[int, typer.Option(min=1, help="images embedded together")]


@app.callback()
def _clip() -> None:
    """Score what a CLIP knows without training for it."""


@app.command("zero-shot")
def classify(
    clip: Clip,
    data: Data = None,
    reader: Reader = "jsonl",
    split: Split = None,
    images: Images = None,
    limit: Limit = None,
    set_: SetData = None,
    kind: Kind = None,
    classes: Annotated[
        Path | None, typer.Option(help="file with a class per line; the first answers of the data if not given")
    ] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="prompt with {} for the class; repeated: their mean")
    ] = None,
    templates: Annotated[Path | None, typer.Option(help="file with a template per line")] = None,
    view: ViewName = "squash",
    own_transform: Own = False,
    batch_size: BatchSize = 64,
    report: Report = None,
    device: Device = None,
) -> None:
    """Give each image the class whose prompts are nearest: top-1 and top-5 accuracy, with 95 % intervals.

    A sample's class is its first answer or text. Without --template it is "a photo of a {}.".
    """
    from tove_core.errors import ConfigError
    from tove_core.evaluation.clip_tower import TEMPLATES, check_prompts, readable, zero_shot

    if template and templates:
        raise ConfigError("--template and --templates both name the prompts; give one of them")
    _require(report, view, device)
    wanted = named_data(reader, data, split, limit, set_, images)
    samples = _samples(wanted, kind)
    names = _lines(classes, "class") if classes else sorted({sample.targets[0] for sample in samples})
    prompts = _lines(templates, "template") if templates else template or TEMPLATES
    check_prompts(names, prompts)  # before the CLIP is loaded
    samples = readable(samples, wanted.max_broken)
    tower = _tower(clip, device)
    print(f"{len(names)} classes, {len(prompts)} {'template' if len(prompts) == 1 else 'templates'}")

    def measure(seen: View | None) -> Any:
        return zero_shot(tower, samples, names, templates=prompts, view=seen, batch_size=batch_size)

    _report(tower, samples, measure, view, own_transform, report)


@app.command("retrieval")
def retrieve(
    clip: Clip,
    data: Data = None,
    reader: Reader = "coco-captions",
    split: Split = None,
    images: Images = None,
    limit: Limit = None,
    set_: SetData = None,
    kind: Kind = None,
    view: ViewName = "squash",
    own_transform: Own = False,
    batch_size: BatchSize = 64,
    report: Report = None,
    device: Device = None,
) -> None:
    """Find an image's captions among all, and a caption's image: recall at 1, 5 and 10 with 95 % intervals.

    Samples that ask a question are left out.
    """
    from tove_core.evaluation.clip_tower import readable
    from tove_core.evaluation.clip_tower import retrieve as recalls

    _require(report, view, device)
    wanted = named_data(reader, data, split, limit, set_, images)
    samples = readable(_captions(_samples(wanted, kind)), wanted.max_broken)
    tower = _tower(clip, device)

    def measure(seen: View | None) -> Any:
        return recalls(tower, samples, view=seen, batch_size=batch_size).values()

    _report(tower, samples, measure, view, own_transform, report)


@app.command("score")
def score(
    clip: Clip,
    predictions: Annotated[Path, typer.Argument(help="folder of tove evaluate --out, or a file of predictions")],
    data: Data = None,
    reader: Reader = "coco-captions",
    split: Split = None,
    images: Images = None,
    limit: Limit = None,
    set_: SetData = None,
    view: ViewName = "squash",
    own_transform: Own = False,
    batch_size: BatchSize = 64,
    report: Report = None,
    device: Device = None,
) -> None:
    """Score captions by how near this CLIP finds them to their images: CLIPScore, 0 to 2.5, with its 95 % interval.

    An evaluation's folder says which images they are about; else give --data. The CLIP must not be the one whose model
    wrote them.
    """
    from tove_core.evaluation.clip_tower import readable, score_with_clip
    from tove_core.evaluation.predictions import check_predictions
    from tove_core.evaluation.references import check_same_data, references_of
    from tove_core.evaluation.saved import open_predictions

    _require(report, view, device)
    saved = open_predictions(predictions)
    kept = saved.manifest.get("data") if not (data or set_ or split or images) else None
    wanted = _kept_data(kept) if kept else named_data(reader, data, split, limit, set_, images)
    samples = saved.answered(_samples(wanted)) if kept else _samples(wanted)
    if saved.references is not None:
        check_same_data(references_of(samples), saved.references, str(predictions))
    check_predictions(saved.said, [sample.id for sample in samples])
    samples = readable(_captions(samples), wanted.max_broken)
    said = {sample.id: saved.said[sample.id] for sample in samples}
    tower = _tower(clip, device)
    _warn_of_own(tower, saved.manifest)

    def measure(seen: View | None) -> Any:
        return (score_with_clip(tower, samples, said, view=seen, batch_size=batch_size),)

    _report(tower, samples, measure, view, own_transform, report)


def _report(
    tower: Tower, samples: Sequence[Sample], measure: Measure, view: str, own_transform: bool, report: Path | None
) -> None:
    from tove_core.evaluation.clip_report import report_tower
    from tove_core.folders import write_file

    # `_require` let known views through alone.
    found = report_tower(tower, samples, measure, view=cast("View", view), own_transform=own_transform)
    print(found)
    if report is not None:
        write_file(report, json.dumps(found.plain(), indent=2) + "\n")
        print(f"wrote {report}")


def _require(report: Path | None, view: str, device: str | None) -> None:
    """Refuse a file that cannot be written and a device that is not there, before anything is read.

    Raises:
        ConfigError: one of them is.
    """
    from tove_core.errors import ConfigError
    from tove_core.evaluation.saved import is_report
    from tove_core.folders import require_place
    from tove_core.hub.placement import usable_device
    from tove_core.hub.view import VIEWS

    require_place(report, "--report", is_report)
    if view not in VIEWS:
        raise ConfigError(f"--view {view!r} is not known; choose one of {', '.join(VIEWS)}")
    usable_device(device or "cpu", "--device")


def _tower(clip: str, device: str | None) -> Tower:
    from tove_core.config import ClipConfig
    from tove_core.tower import load_tower

    tell_unused_gpu(device)
    return load_tower(ClipConfig(name=clip_name(clip)), device=device)


def clip_name(text: str) -> str:
    """Return the name that a folder is loaded by; any other text as it is.

    Raises:
        ConfigError: a folder holds no CLIP.
    """
    from tove_core.errors import ConfigError

    folder = Path(text).expanduser()
    if not folder.is_dir():
        return text
    for scheme, file in (("local-dir", "open_clip_config.json"), ("hf", "config.json")):
        if (folder / file).is_file():
            return f"{scheme}:{folder}"
    raise ConfigError(
        f"{folder} holds no CLIP (neither open_clip_config.json nor config.json); give a folder that tove merge wrote, "
        "or the name of the run's own CLIP"
    )


def _samples(wanted: DataConfig, kind: str | None = None) -> list[Sample]:
    """Read a data set, or the samples of one kind of it.

    Raises:
        DataError: it has no samples of that kind.
    """
    from tove_core.data.readers import read
    from tove_core.errors import DataError

    samples = read(wanted, key="--data")
    if kind is None:
        return samples
    found = [sample for sample in samples if sample.kind == kind]
    if not found:
        kinds = ", ".join(repr(one) for one in sorted({sample.kind for sample in samples}))
        raise DataError(f"none of {len(samples)} samples is of kind {kind!r}; choose one of {kinds}")
    return found


def _kept_data(kept: dict[str, Any]) -> DataConfig:
    """Return the data that an evaluation's manifest names."""
    from tove_core.config import DataConfig

    return DataConfig.model_validate({k: v for k, v in kept.items() if k in DataConfig.model_fields})


def _captions(samples: list[Sample]) -> list[Sample]:
    """Return the samples that ask nothing.

    Raises:
        DataError: all of them ask.
    """
    import warnings

    from tove_core.errors import DataError

    found = [sample for sample in samples if sample.prompt is None]
    if not found:
        raise DataError(f"all {len(samples)} samples ask a question, and captions are wanted; give data with captions")
    if len(found) < len(samples):
        asking = len(samples) - len(found)
        warnings.warn(f"{asking} of {len(samples)} samples ask a question and are left out", stacklevel=2)
    return found


def _lines(path: Path, what: str) -> list[str]:
    """Return the lines of a file that say something.

    Raises:
        DataError: it cannot be read, or says nothing.
    """
    from tove_core.errors import DataError

    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); give a text file in UTF-8, one entry a line") from error
    if not found:
        raise DataError(f"{path} names no {what}; give one a line")
    return found


def _warn_of_own(tower: Tower, manifest: Any) -> None:
    """Say so where the captions were written by a model that sees through this very CLIP."""
    import warnings

    clip = ((manifest.get("model") or {}).get("provenance") or {}).get("clip") or {}
    if tower.weights_sha256 is not None and clip.get("sha256") == tower.weights_sha256:
        warnings.warn(
            "the captions are by a model that sees with this same CLIP, which favours them; score with another CLIP",
            stacklevel=2,
        )
