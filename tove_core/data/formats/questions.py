"""Question data sets about photographs: VQAv2, GQA, POPE and VSR, each in the files its authors publish."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator

from tove_core.config import SourceConfig
from tove_core.data.files import (
    optional_text,
    required_id,
    required_key,
    required_list,
    required_path,
    required_text,
    writable,
)
from tove_core.data.formats.pope_files import pope_files
from tove_core.data.images import FoundImages, open_images
from tove_core.data.json_list import read_members, read_records
from tove_core.data.malformed import one_row
from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.spec import Frozen


def _names_images(template: str) -> str:
    """Refuse a template that names something else than an image's number and the subset."""
    parts = [(name, form) for _, name, form, _ in Formatter().parse(template) if name is not None]
    inner = [name for _, form in parts for _, name, _, _ in Formatter().parse(form or "") if name is not None]
    strange = [name for name in (*(name for name, _ in parts), *inner) if name not in ("image_id", "subset")]
    if strange:
        raise ValueError(f"image_name holds {{{strange[0]}}}, but {{image_id}} and {{subset}} are all it can name")
    return template


ImageName = Annotated[str, AfterValidator(_names_images)]


class VqaOptions(Frozen):
    """Options of the reader "vqav2"."""

    annotations: Path | None = Field(default=None, description="file of the answers; None for a split without them")
    image_name: ImageName = Field(
        default="COCO_{subset}_{image_id:012d}.jpg",
        description="name of an image; subset is the file's data_subtype, such as train2014",
    )


Answer = tuple[tuple[str, ...], str, dict[str, Any]]
"""Targets, kind and meta of a question."""


def read_vqav2(config: SourceConfig, options: VqaOptions) -> list[Sample]:
    """Read VQAv2 (visualqa.org): `path` is the questions file, `annotations` its answers, joined by question_id.

    All ten answers are kept as targets, repeated as people gave them; the kind is the answer_type.

    Raises:
        DataError: a file is malformed, or a question has no annotation.
    """
    path = required_path(config)
    told = None if options.annotations is None else _annotations(options.annotations)
    subset, asked = "", []
    for key, number, value in read_members(path, ["questions"]):
        if key == "data_subtype":
            subset = optional_text({key: value}, key, path)
        elif key == "questions":
            with one_row:
                asked.append((number, *_question(value, f"{path} question {number}")))
    images, samples = FoundImages(open_images(config.images or path.parent)), []
    # Only now: the subset, which names the images, may stand behind the questions.
    for number, identifier, image, question in asked:
        with one_row:
            where = f"{path} question {number}"
            name = _image_name(options.image_name, subset, image, where)
            if told is not None and identifier not in told:
                raise DataError(
                    f"{where} (question_id {identifier}) is not in {options.annotations}; give its own file"
                )
            targets, kind, meta = ((), "", {}) if told is None else told[identifier]
            samples.append(Sample(identifier, images[name], question, targets, kind, meta))
    return samples


def _question(record: Any, where: str) -> tuple[str, Any, str]:
    """Return id, image and text of a question."""
    identifier = required_id(record, "question_id", where)
    required_id(record, "image_id", where)
    return identifier, record["image_id"], required_text(record, "question", where)


def _annotations(path: Path) -> dict[str, Answer]:
    told, known = {}, dict[Any, Any]()
    for key, number, record in read_members(path, ["annotations"]):
        if key == "annotations":
            with one_row:
                where = f"{path} annotation {number}"
                identifier = required_id(record, "question_id", where)
                told[identifier] = _answer(record, where, known)
    return told


def _answer(record: dict[str, Any], where: str, known: dict[Any, Any]) -> Answer:
    """Return what an annotation says; one object in `known` stands for all texts that are equal."""
    given = required_list(record, "answers", where) if "answers" in record else []
    targets = [required_text(one, "answer", where) for one in given]
    kind = optional_text(record, "answer_type", where)
    meta = {key: record[key] for key in ("question_type", "multiple_choice_answer") if key in record}
    same = {key: known.setdefault(text, text) if isinstance(text, str) else text for key, text in meta.items()}
    return tuple([known.setdefault(text, text) for text in targets]), known.setdefault(kind, kind), same


def _image_name(template: str, subset: str, image: Any, where: str) -> str:
    try:
        return template.format(subset=subset, image_id=image)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{where} has the image_id {image!r:.60}, which {template!r} cannot name ({error}); "
            "set data.options.image_name"
        ) from error


class GqaOptions(Frozen):
    """Options of the reader "gqa"."""

    full_answers: bool = Field(default=False, description="the sentence is the answer and not the word")
    image_name: ImageName = Field(default="{image_id}.jpg", description="name of an image")


def read_gqa(config: SourceConfig, options: GqaOptions) -> list[Sample]:
    """Read GQA (cs.stanford.edu/people/dorarad/gqa): a questions file, or a folder of its chunks.

    The kind is the structural type (verify, query, choose, logical, compare).

    Raises:
        DataError: a file is malformed.
    """
    path = required_path(config)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    key = "fullAnswer" if options.full_answers else "answer"
    images, samples = FoundImages(open_images(config.images or path.parent)), []
    for file in files:
        for identifier, _, record in read_members(file):
            with one_row:
                where = f"{file} question {writable(identifier, 'question id', file)}"
                required_id(record, "imageId", where)
                name = _image_name(options.image_name, "", record["imageId"], where)
                targets = (required_text(record, key, where),) if key in record else ()
                question, kind = required_text(record, "question", where), _structure(record, where)
                meta = {"image_id": record["imageId"]}
                samples.append(Sample(identifier, images[name], question, targets, kind, meta))
    return samples


def _structure(record: dict[str, Any], where: str) -> str:
    types = record.get("types")
    return "" if types is None else optional_text(types, "structural", f"{where}, its types,")


def read_pope(config: SourceConfig) -> list[Sample]:
    """Read POPE (github.com/AoiDragon/POPE), JSON lines of {"question_id", "image", "text", "label"}.

    `path` is one file or a folder with one of each split. The kind is the split that a file's name says, else "yes/no";
    ids of a folder begin with it.

    Raises:
        DataError: a line is malformed, or a folder lacks a split.
    """
    path = required_path(config)
    root = config.images or (path if path.is_dir() else path.parent)
    images, samples = FoundImages(open_images(root)), []
    for file in pope_files(path):
        for where, record in read_records(file.path):
            with one_row:
                samples.append(
                    Sample(
                        id=file.prefix + required_id(record, "question_id", where),
                        image=images[required_text(record, "image", where)],
                        prompt=required_text(record, "text", where),
                        targets=(required_text(record, "label", where),) if "label" in record else (),
                        kind=file.kind,
                    )
                )
    return samples


class VsrOptions(Frozen):
    """Options of the reader "vsr"."""

    question: str = Field(default="{caption}", description="how the statement is put; {caption} stands for it")
    answers: tuple[str, str] = Field(default=("false", "true"), description="what is said for the labels 0 and 1")

    @field_validator("question")
    @classmethod
    def _holds(cls, value: str) -> str:
        if value.count("{caption}") != 1:
            raise ValueError("question must hold {caption} once")
        return value


def read_vsr(config: SourceConfig, options: VsrOptions) -> list[Sample]:
    """Read VSR (github.com/cambridgeltl/visual-spatial-reasoning), JSON lines of {"image", "caption", "label", ...}.

    A statement is the prompt, true or false the answer, the relation the kind, "row N" the id.

    Raises:
        DataError: a line is malformed.
    """
    path = required_path(config)
    images, samples = FoundImages(open_images(config.images or path.parent)), []
    for number, (where, record) in enumerate(read_records(path)):
        with one_row:
            samples.append(_statement(record, where, f"row {number}", images, options))
    return samples


def _statement(record: dict[str, Any], where: str, identifier: str, images: FoundImages, options: VsrOptions) -> Sample:
    image, label = required_text(record, "image", where), required_key(record, "label", where)
    if label not in (0, 1):
        raise DataError(f"{where} has the label {label!r:.60}, but 0 or 1 is wanted; repair it")
    caption = required_text(record, "caption", where)
    return Sample(
        id=identifier,
        image=images[image],
        prompt=options.question.replace("{caption}", caption),
        targets=(options.answers[int(label)],),
        kind=optional_text(record, "relation", where),
        meta={key: value for key, value in record.items() if key not in ("image", "caption", "label", "relation")},
    )
