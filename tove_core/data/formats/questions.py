"""Question data sets about photographs: VQAv2, GQA, POPE and VSR, each in the files its authors publish."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tove_core.config import SourceConfig
from tove_core.data.files import read_json, required_id, required_key, required_path, required_text
from tove_core.data.formats.pope_files import pope_files
from tove_core.data.images import find_all, open_images
from tove_core.data.json_list import read_records
from tove_core.data.sample import Sample
from tove_core.errors import DataError
from tove_core.spec import Frozen


class VqaOptions(Frozen):
    """Options of the reader "vqav2"."""

    annotations: Path | None = Field(default=None, description="file of the answers; None for a split without them")
    image_name: str = Field(
        default="COCO_{subset}_{image_id:012d}.jpg",
        description="name of an image; subset is the file's data_subtype, such as train2014",
    )


def read_vqav2(config: SourceConfig, options: VqaOptions) -> list[Sample]:
    """Read VQAv2 (visualqa.org): `path` is the questions file, `annotations` its answers, joined by question_id.

    All ten answers are kept as targets, repeated as people gave them; the kind is the answer_type.

    Raises:
        DataError: a file is malformed, or a question has no annotation.
    """
    path = required_path(config)
    content = read_json(path)
    subset = content.get("data_subtype", "") if isinstance(content, dict) else ""
    told = None if options.annotations is None else _annotations(options.annotations)
    rows = []
    for number, record in enumerate(required_key(content, "questions", str(path))):
        where = f"{path} question {number}"
        identifier = required_id(record, "question_id", where)
        name = _image_name(options.image_name, subset, required_key(record, "image_id", where), where)
        if told is not None and identifier not in told:
            raise DataError(f"{where} (question_id {identifier}) is not in {options.annotations}; give its own file")
        rows.append((identifier, name, required_text(record, "question", where), told[identifier] if told else {}))
    images = find_all(open_images(config.images or path.parent), (name for _, name, _, _ in rows))
    return [
        Sample(
            id=identifier,
            image=images[name],
            prompt=question,
            targets=tuple(required_text(one, "answer", f"question {identifier}") for one in answer.get("answers", [])),
            kind=answer.get("answer_type", ""),
            meta={key: answer[key] for key in ("question_type", "multiple_choice_answer") if key in answer},
        )
        for identifier, name, question, answer in rows
    ]


def _annotations(path: Path) -> dict[str, Mapping[str, Any]]:
    records = required_key(read_json(path), "annotations", str(path))
    return {required_id(record, "question_id", f"{path} annotation {n}"): record for n, record in enumerate(records)}


def _image_name(template: str, subset: str, image: Any, where: str) -> str:
    try:
        return template.format(subset=subset, image_id=image)
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{where} has the image_id {image!r}, which {template!r} cannot name ({error}); set data.options.image_name"
        ) from error


class GqaOptions(Frozen):
    """Options of the reader "gqa"."""

    full_answers: bool = Field(default=False, description="the sentence is the answer and not the word")
    image_name: str = Field(default="{image_id}.jpg", description="name of an image")


def read_gqa(config: SourceConfig, options: GqaOptions) -> list[Sample]:
    """Read GQA (cs.stanford.edu/people/dorarad/gqa): a questions file, or a folder of its chunks.

    The kind is the structural type (verify, query, choose, logical, compare).

    Raises:
        DataError: a file is malformed.
    """
    path = required_path(config)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    key = "fullAnswer" if options.full_answers else "answer"
    rows = []
    for file in files:
        content = read_json(file)
        if not isinstance(content, dict):
            raise DataError(f"{file} holds {type(content).__name__}, but an object by question id is wanted")
        for identifier, record in content.items():
            where = f"{file} question {identifier}"
            name = _image_name(options.image_name, "", required_key(record, "imageId", where), where)
            rows.append((where, identifier, name, record))
    images = find_all(open_images(config.images or path.parent), (name for _, _, name, _ in rows))
    return [
        Sample(
            id=identifier,
            image=images[name],
            prompt=required_text(record, "question", where),
            targets=(required_text(record, key, where),) if key in record else (),
            kind=(record.get("types") or {}).get("structural") or "",
            meta={"image_id": record["imageId"]},
        )
        for where, identifier, name, record in rows
    ]


def read_pope(config: SourceConfig) -> list[Sample]:
    """Read POPE (github.com/AoiDragon/POPE), JSON lines of {"question_id", "image", "text", "label"}.

    `path` is one file or a folder with one of each split. The kind is the split that a file's name says, else "yes/no";
    ids of a folder begin with it.

    Raises:
        DataError: a line is malformed, or a folder lacks a split.
    """
    path = required_path(config)
    rows = [(file, where, record) for file in pope_files(path) for where, record in read_records(file.path)]
    root = config.images or (path if path.is_dir() else path.parent)
    images = find_all(open_images(root), (required_text(record, "image", where) for _, where, record in rows))
    return [
        Sample(
            id=file.prefix + required_id(record, "question_id", where),
            image=images[required_text(record, "image", where)],
            prompt=required_text(record, "text", where),
            targets=(required_text(record, "label", where),) if "label" in record else (),
            kind=file.kind,
        )
        for file, where, record in rows
    ]


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
    records = list(read_records(path))
    images = find_all(open_images(config.images or path.parent), (required_text(r, "image", w) for w, r in records))
    samples = []
    for number, (where, record) in enumerate(records):
        label = required_key(record, "label", where)
        if label not in (0, 1):
            raise DataError(f"{where} has the label {label!r}, but 0 or 1 is wanted; repair it")
        caption = required_text(record, "caption", where)
        meta = {key: value for key, value in record.items() if key not in ("image", "caption", "label", "relation")}
        samples.append(
            Sample(
                id=f"row {number}",
                image=images[record["image"].strip()],
                prompt=options.question.replace("{caption}", caption),
                targets=(options.answers[int(label)],),
                kind=record.get("relation", ""),
                meta=meta,
            )
        )
    return samples
