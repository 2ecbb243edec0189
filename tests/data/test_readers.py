from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from tove_core.config import DataConfig
from tove_core.data.formats.easy_vqa import question_kind
from tove_core.data.images import PackedImage
from tove_core.data.readers import READERS, read, reader
from tove_core.data.sample import distinct_images
from tove_core.errors import ConfigError, DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def lines(folder: Path, *records: object) -> DataConfig:
    text = "\n".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in records)
    (folder / "items.jsonl").write_text(text, encoding="utf-8")
    return DataConfig(reader="jsonl", path=folder / "items.jsonl")


def coco(folder: Path, content: object) -> DataConfig:
    (folder / "captions.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return DataConfig(reader="coco-captions", path=folder / "captions.json")


def easy(folder: Path, rows: object, split: str = "val") -> DataConfig:
    (folder / f"{split}_questions.json").write_text(json.dumps(rows))
    return DataConfig(reader="easy-vqa", path=folder, split=split)


# --- the registry -----------------------------------------------------------------------------------------------------


def test_unknown_readers_are_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'easy-vqa'"):
        reader("easyvqa")
    with pytest.raises(ConfigError, match=r"choose one of .*coco-captions"):
        read(DataConfig(reader="zzz"))


def test_a_json_list_or_object_given_as_json_lines_is_told_as_a_whole(tmp_path):
    record = {"image": "a.png", "text": "a"}
    touch(tmp_path, "a.png")
    line = json.dumps(record)
    lists = (f"[{line}]", f"[{line}, {line}]", f"[{line},\n {line}]", f"[\n{line}\n]")
    for text in (*lists, json.dumps(record, indent=1)):
        with pytest.raises(DataError, match=r"items.jsonl is one JSON list or object .*every sample on a line"):
            read(lines(tmp_path, "", text))
    assert len(read(lines(tmp_path, "", record, record))) == 2


@pytest.mark.parametrize("name", ["coco-captions", "easy-vqa", "jsonl"])
def test_every_reader_says_which_path_it_lacks(name, tmp_path):
    assert name in READERS
    with pytest.raises(DataError, match="was given no path"):
        read(DataConfig(reader=name))
    with pytest.raises(DataError, match="does not exist"):
        read(DataConfig(reader=name, path=tmp_path / "gone"))


def test_a_relative_path_that_leads_nowhere_says_from_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=rf"gone.jsonl does not exist in the working directory {tmp_path}; set data.path"
    ):
        read(DataConfig(path="gone.jsonl"))


@pytest.mark.parametrize("name", ["coco-captions", "jsonl"])
def test_a_split_is_refused_where_it_would_do_nothing(name, tmp_path):
    touch(tmp_path, "x.json")
    with pytest.raises(
        DataError, match=r"which has no splits; give the file of that split as data.path \(--data .*\(--split\) out"
    ):
        read(DataConfig(reader=name, path=tmp_path / "x.json", split="val"))


# --- JSON lines -------------------------------------------------------------------------------------------------------


def test_captions_and_questions_are_read_with_their_answers(tmp_path):
    touch(tmp_path, "a.png", "sub/b.png")
    config = lines(
        tmp_path,
        {"image": "a.png", "text": "a \u2028 dog "},
        "",
        {"image": "sub/b.png", "text": ["one", "two"], "id": 7, "source": "me"},
        {"image": "a.png", "question": "what?", "answer": "a cat", "kind": "animal"},
        {"image": "a.png", "question": "who?", "answers": ["x", {"answer": "y", "answer_id": 2}]},
    )
    samples = read(config)
    assert [sample.id for sample in samples] == ["line 1", "7", "line 4", "line 5"]
    assert [sample.prompt for sample in samples] == [None, None, "what?", "who?"]
    assert [sample.targets for sample in samples] == [("a \u2028 dog",), ("one", "two"), ("a cat",), ("x", "y")]
    assert samples[1].image == tmp_path / "sub" / "b.png"
    assert samples[1].meta == {"source": "me"}
    assert samples[2].kind == "animal"
    assert distinct_images(samples)[1] == [(0,), (1,), (0,), (0,)]


def test_limit_takes_the_first_samples_and_still_checks_the_rest(tmp_path):
    touch(tmp_path, "a.png")
    config = lines(tmp_path, *({"image": "a.png", "text": str(n)} for n in range(5)))
    assert [s.targets[0] for s in read(config.model_copy(update={"limit": 3}))] == ["0", "1", "2"]
    config = lines(tmp_path, {"image": "a.png", "text": "x"}, {"image": "gone.png", "text": "x"})
    with pytest.raises(DataError, match="1 of 2 images"):
        read(config.model_copy(update={"limit": 1}))


def test_samples_without_targets_are_for_inference_only(tmp_path):
    touch(tmp_path, "a.png")
    config = lines(
        tmp_path, {"image": "a.png"}, {"image": "a.png", "question": "what?"}, {"image": "a.png", "text": "x"}
    )
    with pytest.raises(DataError, match=r"2 of 3 samples .* have no target text.*'line 1', 'line 2'"):
        read(config)
    assert [sample.prompt for sample in read(config, inference=True)] == [None, "what?", None]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ('{"image": "a.png", "text": }', "line 2 is not JSON"),
        ("[1, 2]", "line 2 holds list"),
        ({"text": "x"}, "line 2 has no 'image'"),
        ({"image": 3, "text": "x"}, "line 2 has the image 3"),
        ({"image": "a.png", "caption": "x"}, "line 2 has image, caption but neither 'text' nor 'question'"),
        ({"image": "a.png", "answer": "x"}, "line 2 has image, answer but neither"),
        ({"image": "a.png", "text": " "}, "line 2 has ' ' as 'text'"),
        ({"image": "a.png", "text": []}, "line 2 has an empty list as 'text'"),
        ({"image": "a.png", "text": "x", "question": "y"}, "line 2 has both 'text' and 'question'"),
        (
            {"image": "a.png", "question": "y", "answer": "x", "answers": ["x"]},
            "line 2 has both 'answer' and 'answers'",
        ),
        ({"image": "a.png", "question": "y", "answer": 3}, "line 2 has 3 as 'answer'"),
        ({"image": "a.png", "question": "y", "answers": [{"text": "x"}]}, "line 2 has no 'answer'"),
        ({"image": "a.png", "text": "x", "id": [1]}, "line 2 has the id"),
        ({"image": "a.png", "text": "x", "id": "line 1"}, "1 of 2 samples .* have an id twice or more"),
    ],
)
def test_broken_lines_are_refused_with_their_number(tmp_path, record, words):
    touch(tmp_path, "a.png")
    with pytest.raises(DataError, match=words):
        read(lines(tmp_path, {"image": "a.png", "text": "fine"}, record))


def test_empty_and_undecodable_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no samples"):
        read(lines(tmp_path, "", "  "))
    (tmp_path / "items.jsonl").write_bytes(b'{"image": "\xff"}')
    with pytest.raises(DataError, match=r"not UTF-8 text \(byte 11\)"):
        read(DataConfig(reader="jsonl", path=tmp_path / "items.jsonl"))


# --- COCO captions ----------------------------------------------------------------------------------------------------

CONTENT = {
    "images": [{"id": 9, "file_name": "b.jpg", "width": 4}, {"id": 3, "file_name": "a.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 3, "caption": "first "},
        {"id": 2, "image_id": 9, "caption": "other"},
        {"id": 3, "image_id": 3, "caption": "second"},
    ],
}


def test_an_image_comes_once_with_all_its_captions_in_order(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/b.jpg")
    samples = read(coco(tmp_path, CONTENT))
    assert [(s.id, s.targets) for s in samples] == [("9", ("other",)), ("3", ("first", "second"))]
    assert samples[0].meta == {"file_name": "b.jpg", "width": 4}
    assert samples[0].image == tmp_path / "images" / "b.jpg"


def test_images_are_found_beside_the_file_or_where_the_configuration_says(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg", "other/a.jpg", "other/b.jpg")
    config = coco(tmp_path, CONTENT)
    assert read(config)[1].image == tmp_path / "a.jpg"
    assert read(config.model_copy(update={"images": tmp_path / "other"}))[1].image == tmp_path / "other" / "a.jpg"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": []}, "3 captions of images it does not list"),
        ({"images": [{"id": 3}]}, "image 0 has no 'file_name'"),
        ({"annotations": [{"image_id": 3}]}, "annotation 0 has no 'caption'"),
        ({"annotations": [{"image_id": 3, "caption": None}]}, "annotation 0 has None as 'caption'"),
        ({"annotations": [5]}, "annotation 0 is int"),
        ({"annotations": {}}, "'annotations' of type dict"),
        ({"annotations": CONTENT["annotations"][:1]}, "1 of 2 samples .* have no target text.*'9'"),
        ({"images": [CONTENT["images"][0], *CONTENT["images"]]}, "1 of 3 samples .* have an id twice or more"),
    ],
)
def test_broken_caption_files_are_refused(tmp_path, change, words):
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(DataError, match=words):
        read(coco(tmp_path, CONTENT | change))


def test_files_that_are_not_json_or_not_captions_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not JSON"):
        read(coco(tmp_path, '{"images": ['))
    with pytest.raises(DataError, match=r"has no 'images' \(it has info\)"):
        read(coco(tmp_path, {"info": 1}))


# --- easy-VQA ---------------------------------------------------------------------------------------------------------

ROWS = [
    ["what shape is present?", "circle", 1],
    ["is there a red shape?", "no", 0],
    ["what color is the shape?", "red", 1],
]


def test_questions_are_read_with_kind_and_image_from_folder_or_archive(tmp_path):
    config = easy(tmp_path, ROWS)
    with tarfile.open(tmp_path / "val_images.tar", "w") as tar:
        for number in (0, 1):
            content = f"picture {number}".encode()
            member = tarfile.TarInfo(f"images/{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    packed = read(config)
    assert [s.load() for s in packed] == [b"picture 1", b"picture 0", b"picture 1"]
    assert [s.kind for s in packed] == ["shape", "yes/no", "colour"]
    assert [s.id for s in packed] == ["val/0", "val/1", "val/2"]
    touch(tmp_path, "val/images/0.png", "val/images/1.png")
    assert [s.load() for s in read(config)] == [tmp_path / f"val/images/{n}.png" for n in (1, 0, 1)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"a": 1}, "a list of .question, answer, image id. is wanted"),
        ([["what shape is present?", "circle"]], "row 0 is"),
        ([ROWS[0], ["what shape is present?", "circle", "1"]], "row 1 is"),
        ([["how many shapes are there?", "one", 0]], "none of easy-VQA's forms"),
        ([["is there a red shape?", "no", 5]], r"1 of 1 images .*images/5\.png"),
    ],
)
def test_broken_rows_are_refused(tmp_path, rows, words):
    touch(tmp_path, "val/images/0.png", "val/images/1.png")
    with pytest.raises(DataError, match=words):
        read(easy(tmp_path, rows))


def test_a_split_that_is_not_there_and_options_without_effect_are_refused(tmp_path):
    config = easy(tmp_path, ROWS)
    with pytest.raises(DataError, match=r"none of test_questions\.json, test/questions\.json"):
        read(config.model_copy(update={"split": "test"}))
    with pytest.raises(DataError, match=r"none of val_images\.tar"):
        read(config)
    with pytest.raises(DataError, match=r"data\.images was given"):
        read(config.model_copy(update={"images": tmp_path}))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("what is the color of the triangle?", "colour"),
        ("what color is the shape?", "colour"),
        ("what is the teal shape?", "shape"),
        ("what shape does the image contain?", "shape"),
        ("does the image not contain a circle?", "yes/no"),
        ("is no blue shape present?", "yes/no"),
    ],
)
def test_the_kind_of_a_question_follows_from_its_form(question, kind):
    assert question_kind(question) == kind


# --- the published data -----------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_published_easy_vqa_has_the_counts_its_authors_state(shared_data):
    samples = read(DataConfig(reader="easy-vqa", path=shared_data("easy-vqa"), split="test"))
    images, _ = distinct_images(samples)
    assert (len(samples), len(images)) == (9673, 1000)
    assert sum(sample.kind == "yes/no" for sample in samples) == 7136
    answers = {kind: {s.targets[0] for s in samples if s.kind == kind} for kind in ("colour", "shape", "yes/no")}
    assert answers["shape"] == {"circle", "rectangle", "triangle"}
    assert answers["yes/no"] == {"yes", "no"}
    assert len(answers["colour"]) == 8
    assert isinstance(images[0], PackedImage)
    assert Image.open(io.BytesIO(images[0].read())).size == (64, 64)


@pytest.mark.shared_data
def test_real_coco_captions_are_read(shared_data):
    folder = shared_data("coco-mini")
    samples = read(DataConfig(reader="coco-captions", path=folder / "captions.json"))
    assert len(samples) == 76
    assert sum(len(sample.targets) for sample in samples) == 380
    assert all(Image.open(sample.load()).width == sample.meta["width"] for sample in samples)
