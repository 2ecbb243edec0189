from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from tove_core.data.sample import Sample
from tove_core.errors import CheckpointError, DataError
from tove_core.evaluation.manifest import MANIFEST, write_manifest
from tove_core.evaluation.predictions import check_predictions, read_predictions, write_predictions
from tove_core.evaluation.references import digest, read_references, references_of, write_references

SAID = {"a": "ein Café “x”", "b": "", "c": "two\nlines"}


@pytest.fixture
def write(tmp_path):
    def file(content):
        path = tmp_path / "said.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return file


def test_what_cannot_be_written_is_said_in_a_sentence_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "said.jsonl"
    write_predictions(path, SAID)
    before, files = path.read_bytes(), [*tmp_path.iterdir()]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    writes = {
        path: lambda: write_predictions(path, {"other": "text"}),
        tmp_path / "references.jsonl": lambda: write_references(tmp_path / "references.jsonl", []),
        tmp_path / MANIFEST: lambda: write_manifest(tmp_path, {"format": 1}),
    }
    for name, write in writes.items():
        with pytest.raises(CheckpointError, match=rf"{name.name} cannot be written \(.*No space left"):
            write()
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == files


def test_predictions_come_back_as_they_were_written(tmp_path):
    write_predictions(tmp_path / "said.jsonl", SAID)
    assert read_predictions(tmp_path / "said.jsonl") == SAID
    assert list(read_predictions(tmp_path / "said.jsonl")) == list(SAID)
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_behind_a_byte_order_mark_is_read(write, indent):
    records = [{"image_id": 42, "caption": "a dog"}, {"image_id": 7, "caption": "ein Café"}]
    content = json.dumps(records, indent=indent, ensure_ascii=False)
    assert read_predictions(write(content.encode("utf-8-sig"))) == {"42": "a dog", "7": "ein Café"}


def test_result_files_of_coco_and_vqa_are_read(write):
    coco = json.dumps([{"image_id": 42, "caption": "a dog"}, {"image_id": 7, "caption": "a cat"}])
    assert read_predictions(write(coco)) == {"42": "a dog", "7": "a cat"}
    vqa = '{"question_id": 1, "answer": "yes"}\n\n{"question_id": 2, "answer": "no"}\n'
    assert read_predictions(write(b"\xef\xbb\xbf" + vqa.encode())) == {"1": "yes", "2": "no"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"id": "a", "prediction": "x"}\n{"id": "b", "prediction": "caf\xe9"}\n', "line 2 is not UTF-8 .byte 0xe9"),
        ('{"id": "a", "prediction": "x"}\n{"id": "b", "pre', "line 2 is not JSON"),
        ('{"id": "a", "prediction": "x"}\n' * 2 + '{"id": "b", "prediction": "x"}\n', r"1 ids .* \(first: 'a'\)"),
        ('{"id": "a", "text": "x"}\n', "line 1 has the keys id, text, but one of id and prediction"),
        ('{"id": "a", "prediction": null}\n', "line 1 has id 'a' and no text"),
        ('{"id": "a", "prediction": "an \\ud800 eye"}\n', "line 1 has half a character at 3 of its text"),
        ("[3]", "record 0 holds int"),
        ("[3", "is not JSON"),
        ("[" * 100_000, "nests brackets deeper"),
        ('{"id": "a", "prediction": ' + "[" * 100_000 + "\n", "line 1 nests brackets deeper"),
        ('{"id": ' + "7" * 5000 + ', "prediction": "x"}\n', "line 1 holds a number of thousands of digits"),
    ],
)
def test_malformed_files_are_refused_in_one_sentence(write, content, words):
    with pytest.raises(DataError, match=words) as caught:
        read_predictions(write(content))
    assert "\n" not in str(caught.value) and "said.jsonl" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no\.jsonl cannot be read"):
        read_predictions(tmp_path / "no.jsonl")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"a": "x"}, r"of 5 samples 4 have no prediction \(first: 'b', 'c', 'd'\); score exactly"),
        (dict.fromkeys("abcdefg", "x"), r"of 5 samples 2 predictions are about none of them \(first: 'f', 'g'\)"),
        (dict.fromkeys("abcdx", "x"), r"1 have no prediction \(first: 'e'\) and 1 predictions are .* 'x'"),
        ({"1": "x", "2": "y"}, r"none of 2 predictions \(first: '1', '2'\) is about one of 5 samples"),
        ({}, "none of 0 predictions .the file is empty."),
    ],
)
def test_predictions_of_other_samples_are_refused_with_counts_and_first_ids(said, words):
    with pytest.raises(DataError, match=words):
        check_predictions(said, list("abcde"))


def test_empty_predictions_are_told_and_scored():
    with pytest.warns(UserWarning, match=r"2 of 3 predictions are empty \(first: 'a', 'c'\)"):
        check_predictions({"a": "", "b": "x", "c": " \n"}, list("abc"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_predictions(dict.fromkeys("abc", "x"), list("abc"))


SAMPLES = [
    Sample("q1", b"one", "what?", ("red", "blue"), "colour", {"relation": "left of"}),
    Sample("q2", b"two", "who?", ("ä",)),
    Sample("q3", b"one", None, ("a cat",)),
]


def test_references_come_back_and_know_which_samples_share_an_image(tmp_path):
    references = references_of(SAMPLES)
    assert [one.image for one in references] == ["i0", "i1", "i0"]
    write_references(tmp_path / "r.jsonl", references)
    assert read_references(tmp_path / "r.jsonl") == references
    assert digest(read_references(tmp_path / "r.jsonl")) == digest(references)
    assert digest(references[:2]) != digest(references) != digest(references[::-1])
    (tmp_path / "r.jsonl").write_text('{"id": "a", "image": "i0"}\n')
    with pytest.raises(DataError, match="line 1 is no reference"):
        read_references(tmp_path / "r.jsonl")
