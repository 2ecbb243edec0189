"""Malformed rows: one sentence for each, never a traceback; reading stops at the first, a check lists them all."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import typer

from tove_core.cli.main import app
from tove_core.config import DataConfig
from tove_core.data.malformed import noting, one_row
from tove_core.data.readers import collect, read
from tove_core.errors import DataError

DEEP = "[" * 100_000
HALF = "\ud800 x"
"""A lone surrogate, as json.dumps writes and json.loads reads it."""


def put(folder: Path, name: str, content: object) -> Path:
    (folder / "a.jpg").write_bytes(b"x")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / name


def lines(*records: object) -> str:
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in records)


def talk(question: str = "what?", **more: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": "that"}]
    return {"id": "t", "image": "a.jpg", "conversations": said, **more}


def vqa(folder: Path, questions: object, annotations: object) -> DataConfig:
    options = {"annotations": str(put(folder, "answers.json", {"annotations": annotations})), "image_name": "a.jpg"}
    return DataConfig(reader="vqav2", path=put(folder, "q.json", {"questions": questions}), options=options)


ASKED = {"question_id": 1, "image_id": 2, "question": "what?"}
TOLD = {"question_id": 1, "answer_type": "other", "answers": [{"answer": "that"}]}


@pytest.mark.parametrize(
    ("questions", "annotations", "words"),
    [
        ([ASKED], [TOLD | {"answers": None}], "annotation 0 has 'answers' of type NoneType, but a list"),
        ([ASKED], [TOLD | {"answers": "that"}], "annotation 0 has 'answers' of type str"),
        ([ASKED], [TOLD | {"answers": ["that"]}], "annotation 0 is str, but an object with 'answer'"),
        ([ASKED], [TOLD | {"answer_type": ["other"]}], r"annotation 0 has \['other'\] as 'answer_type'"),
        (5, [TOLD], "'questions' of type int, but a list"),
        ([ASKED], None, "'annotations' of type NoneType"),
        ([ASKED | {"image_id": [1]}], [TOLD], r"question 0 has the image_id \[1\]"),
        ([ASKED | {"question_id": {}}], [TOLD], "question 0 has the question_id"),
    ],
)
def test_vqav2_of_other_types_is_refused(tmp_path, questions, annotations, words):
    with pytest.raises(DataError, match=words):
        read(vqa(tmp_path, questions, annotations))


GQA = {"imageId": "a", "question": "what?", "answer": "that"}
KARPATHY = {"filename": "a.jpg", "imgid": 0, "split": "train", "sentences": [{"raw": "x"}]}
COCO = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]}
VSR = {"image": "a.jpg", "caption": "x", "label": 1}
POPE = {"question_id": 1, "image": "a.jpg", "text": "what?", "label": "no"}


@pytest.mark.parametrize(
    ("reader", "content", "words"),
    [
        ("gqa", {"1": GQA | {"types": ["x"]}}, "question 1, its types, is list, but an object"),
        ("gqa", {"1": GQA | {"types": {"structural": ["x"]}}}, r"has \['x'\] as 'structural'"),
        ("gqa", {"1": GQA | {"imageId": None}}, "question 1 has the imageId None"),
        ("gqa", {"1": 5}, "question 1 is int"),
        ("gqa", [GQA], "holds list, but an object is wanted"),
        ("karpathy", {"images": 5}, "'images' of type int, but a list"),
        ("karpathy", {"images": [KARPATHY | {"sentences": None}]}, "image 0 has 'sentences' of type NoneType"),
        ("karpathy", {"images": [KARPATHY | {"split": ["train"]}]}, r"image 0 has \['train'\] as 'split'"),
        ("karpathy", {"images": [KARPATHY | {"filepath": 5}]}, "image 0 has 5 as 'filepath'"),
        ("karpathy", {"dataset": "coco"}, r"has no 'images' \(it has dataset\)"),
        ("coco-captions", COCO | {"images": None}, "'images' of type NoneType"),
        ("coco-captions", COCO | {"annotations": [{"image_id": [1], "caption": "x"}]}, "annotation 0 has the image_id"),
        ("coco-captions", {"images": COCO["images"]}, "has no 'annotations'"),
        (
            "nocaps",
            COCO | {"images": [{"id": 1, "file_name": "a.jpg", "domain": [1]}]},
            r"image 0 has \[1\] as 'domain'",
        ),
        ("nocaps", COCO | {"annotations": 5}, "'annotations' of type int"),
        ("vsr", [VSR | {"relation": ["under"]}], r"item 0 has \['under'\] as 'relation'"),
        ("vsr", [VSR | {"label": [1]}], r"item 0 has the label \[1\]"),
        ("pope", [POPE | {"image": ["a.jpg"]}], r"item 0 has \['a\.jpg'\] as 'image'"),
        ("blip", [{"image": "a.jpg", "caption": {"x": 1}}], "item 0 has {'x': 1} as 'caption'"),
        ("llava", [talk() | {"conversations": {"from": "human"}}], "item 0 has no conversation"),
    ],
)
def test_other_types_than_the_format_has_are_refused(tmp_path, reader, content, words):
    with pytest.raises(DataError, match=words):
        read(DataConfig(reader=reader, path=put(tmp_path, "data.json", content)))


def shard(folder: Path, content: str) -> DataConfig:
    with tarfile.open(folder / "s.tar", "w") as tar:
        for name in (put(folder, "a.jpg", "x"), put(folder, "a.json", content)):
            tar.add(name, name.name)
    return DataConfig(reader="webdataset", path=folder / "s.tar")


@pytest.mark.parametrize("text", [DEEP, '{"a": ' + DEEP, f'[{{"a": {DEEP}', "[" + "1" * 5000 + "]"])
@pytest.mark.parametrize("reader", ["jsonl", "llava", "pope", "coco-captions", "gqa", "karpathy", "vqav2"])
def test_json_that_the_decoder_gives_up_on_is_refused(tmp_path, reader, text):
    path = put(tmp_path, "data.jsonl" if reader == "jsonl" else "data.json", text)
    with pytest.raises(DataError, match=r"is not JSON .*(nested too deeply|number of too many digits)") as caught:
        read(DataConfig(reader=reader, path=path))
    assert len(str(caught.value)) < 200 + len(str(path))


def test_json_of_shards_and_of_easy_vqa_may_not_be_nested_for_ever_either(tmp_path):
    with pytest.raises(DataError, match=r"a \.json that is not JSON \(nested too deeply\)"):
        read(shard(tmp_path, DEEP))
    put(tmp_path, "train_questions.json", DEEP)
    with pytest.raises(DataError, match=r"is not JSON .*nested too deeply"):
        read(DataConfig(reader="easy-vqa", path=tmp_path))


@pytest.mark.parametrize(
    ("reader", "content"),
    [
        ("jsonl", {"image": "a.jpg", "text": HALF}),
        ("jsonl", {"image": "a.jpg", "question": HALF, "answer": "x"}),
        ("jsonl", {"image": "a.jpg", "text": "x", "id": HALF}),
        ("jsonl", {"image": HALF, "text": "x"}),
        ("jsonl", {"image": ["a.jpg", HALF], "text": "x"}),
        ("llava", [talk(HALF)]),
        ("llava", [talk(id=HALF)]),
        ("llava", [talk(image=HALF)]),
        ("gqa", {HALF: GQA}),
        ("gqa", {"1": GQA | {"imageId": HALF}}),
        ("coco-captions", COCO | {"annotations": [{"image_id": 1, "caption": HALF}]}),
    ],
)
def test_half_a_character_is_refused_and_named(tmp_path, reader, content):
    path = put(tmp_path, "data.json", content)
    with pytest.raises(DataError, match=r"half a character \(\\ud800, a lone surrogate\) at place 0 of '") as caught:
        read(DataConfig(reader=reader, path=path))
    assert str(caught.value).encode()


def test_characters_beyond_the_first_plane_are_no_halves(tmp_path):
    path = put(tmp_path, "data.jsonl", json.dumps({"image": "a.jpg", "text": "\U0001f600 ü"}))
    (only,) = read(DataConfig(path=path))
    assert only.targets == ("\U0001f600 ü",)


# --- all of them ------------------------------------------------------------------------------------------------------

FINE = {"image": "a.jpg", "text": "fine"}
EASY = [["what shape is present?", "circle", 1], ["why?", "x", 1], ["what shape?"], ["is it red?", "no", 1]]
ALL: list[tuple[str, str, object, list[str], list[str]]] = [
    (
        "jsonl",
        "data.jsonl",
        lines(FINE, "{", FINE, [1], {"image": "a.jpg", "text": " "}, FINE, DEEP),
        ["line 1", "line 3", "line 6"],
        ["line 2 is not JSON", "line 4 holds list", "line 5 has ' '", "line 7 is not JSON"],
    ),
    (
        "csv",
        "data.csv",
        'image,text\na.jpg,x\na.jpg\n,y\na.jpg,"x"y\na.jpg,z\na.jpg,"open\n',
        ["line 2", "line 6"],
        ["line 3 has 1 cells", "line 4 has no 'image'", "line 5 is not delimited", "line 7 is not delimited"],
    ),
    ("tsv", "data.tsv", "image\ttext\na.jpg\na.jpg\tx\n", ["line 3"], ["line 2 has 1 cells"]),
    (
        "llava",
        "data.json",
        [talk(), 5, {"id": "u"}, talk(conversations=[]), talk()],
        ["t/0", "t#3/0"],
        [
            "item 1 is int",
            "item 2 has neither 'conversations' nor 'messages' (it has id)",
            "item 3 has no conversation",
        ],
    ),
    (
        "pope",
        "data.json",
        lines(POPE, "{", {**POPE, "text": 3}),
        ["1"],
        ["line 2 is not JSON", "line 3 has 3 as 'text'"],
    ),
    (
        "vsr",
        "data.json",
        [VSR, {**VSR, "label": 2}, VSR, 5],
        ["row 0", "row 2"],
        ["item 1 has the label 2", "item 3 is int"],
    ),
    ("gqa", "data.json", {"1": 5, "2": GQA, "3": {}}, ["2"], ["question 1 is int", "question 3 has no 'imageId'"]),
    (
        "blip",
        "data.json",
        [{"image": "a.jpg"}, {"image": "a.jpg", "caption": "x"}],
        ["a.jpg"],
        ["item 0 has no 'caption'"],
    ),
    (
        "karpathy",
        "data.json",
        {"images": [KARPATHY, 5, {**KARPATHY, "sentences": 5}]},
        ["0"],
        ["image 1 is int", "image 2 has 'sentences'"],
    ),
    (
        "coco-captions",
        "data.json",
        {
            "images": [*COCO["images"], {"id": 2}],
            "annotations": [*COCO["annotations"], {"image_id": 1}, {"image_id": 2, "caption": "x"}],
        },
        ["1"],
        ["image 1 has no 'file_name'", "annotation 1 has no 'caption'", "has 1 captions of images it does not list"],
    ),
    ("easy-vqa", "train_questions.json", EASY, ["train/0", "train/3"], ["none of easy-VQA's forms", "row 2 is"]),
]


@pytest.mark.parametrize(("reader", "name", "content", "ids", "words"), ALL, ids=[one[0] for one in ALL])
def test_a_check_lists_every_malformed_row_and_reads_the_others(tmp_path, reader, name, content, ids, words):
    path = put(tmp_path, name, content)
    (tmp_path / "train" / "images").mkdir(parents=True)
    config = DataConfig(reader=reader, path=tmp_path if reader == "easy-vqa" else path)
    (part,) = collect(config, malformed=True)
    assert [sample.id for sample in part.samples] == ids
    assert len(part.malformed) == len(words)
    for sentence, seen in zip(part.malformed, words, strict=True):
        assert seen in sentence
    # Whoever does not ask for the list gets no part of the data set.
    for strict in (collect, read):
        with pytest.raises(DataError) as caught:
            strict(config)
        assert str(caught.value) == part.malformed[0]


def test_vqav2_and_shards_list_their_malformed_rows_too(tmp_path):
    other = ASKED | {"question_id": 3}
    (part,) = collect(vqa(tmp_path, [5, other, ASKED], [TOLD, None]), malformed=True)
    assert [sample.id for sample in part.samples] == ["1"]
    for sentence, seen in zip(part.malformed, ("annotation 1", "question 0", "(question_id 3)"), strict=True):
        assert seen in sentence
    (part,) = collect(shard(tmp_path, '{"text": 5}'), malformed=True)
    assert (part.samples, len(part.malformed)) == ([], 1)


def test_faults_of_the_whole_file_are_errors_in_a_check_as_well(tmp_path):
    for text in ("[5, {}", "[5] 7"):
        with pytest.raises(DataError, match="is not JSON"):
            collect(DataConfig(reader="pope", path=put(tmp_path, "data.json", text)), malformed=True)
    with pytest.raises(DataError, match="has the columns a but no 'image'"):
        collect(DataConfig(reader="csv", path=put(tmp_path, "data.csv", "a\nb\n")), malformed=True)


def test_wrong_marks_are_listed_with_the_sample(tmp_path):
    rows = [{"image": "a.jpg", "question": "<image> or <image>?", "answer": "x", "id": f"m{n}"} for n in range(2)]
    (part,) = collect(DataConfig(path=put(tmp_path, "data.jsonl", lines(*rows))), malformed=True)
    assert ["'m0'" in part.malformed[0], "'m1'" in part.malformed[1]] == [True, True]


def test_each_part_of_a_mixture_has_its_own_malformed_rows(tmp_path):
    one, two = put(tmp_path, "1.jsonl", lines("{", FINE)), put(tmp_path, "2.jsonl", lines(FINE, "{", "{"))
    mixture = [{"reader": "jsonl", "path": one}, {"reader": "jsonl", "path": two, "name": "b"}]
    parts = collect(DataConfig.model_validate({"mixture": mixture}), malformed=True)
    assert [(len(part.samples), len(part.malformed)) for part in parts] == [(1, 1), (1, 2)]


def test_only_data_errors_are_noted_and_only_within_the_block():
    with noting() as noted:
        with one_row:
            raise DataError("a")
        with pytest.raises(KeyError), one_row:
            raise KeyError("b")
        with noting() as inner, one_row:
            raise DataError("c")
    assert (noted, inner) == (["a"], ["c"])
    with pytest.raises(DataError, match="d"), one_row:
        raise DataError("d")


def run(*words: str) -> int:
    try:
        return typer.main.get_command(app)(["data", "check", *words], standalone_mode=False) or 0
    except typer.Exit as stopped:
        return stopped.exit_code


def test_the_command_prints_the_first_malformed_rows_and_counts_all(tmp_path, capsys):
    path = put(tmp_path, "data.jsonl", lines(FINE, *["{"] * 7))
    assert run(f"jsonl:{path}", "--quick") == 1
    printed = capsys.readouterr().out
    assert "malformed rows  7\n" in printed and "line 6 is not JSON" in printed and "and 2 more" in printed
    assert "line 7 is not JSON" not in printed
    assert run(f"jsonl:{path}", "--quick", "--json") == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert (len(report["malformed"]), report["faults"], report["samples"]) == (7, 7, 1)


@pytest.mark.parametrize(("content", "cure"), [("", "give a file or a split"), ("{\n{", "repair its rows")])
def test_the_command_says_that_there_are_no_samples_and_what_to_do(tmp_path, capsys, content, cure):
    assert run(f"jsonl:{put(tmp_path, 'data.jsonl', content)}") == 1
    printed = capsys.readouterr().out
    assert f"there are no samples in it, and nothing can be trained or scored; {cure}" in printed
    assert "None" not in printed


def test_long_names_are_cut_for_people_and_whole_for_programs(tmp_path, capsys):
    name = "n" * 5000
    path = put(tmp_path, "data.jsonl", json.dumps({"image": name, "text": "x"}))
    assert run(f"jsonl:{path}") == 1
    assert max(map(len, capsys.readouterr().out.splitlines())) < 500
    assert run(f"jsonl:{path}", "--json") == 1
    assert json.loads(capsys.readouterr().out)[0]["missing"] == [name]
    with pytest.raises(DataError, match=r"1 of 1 images .*\(5,000 characters\)") as caught:
        read(DataConfig(path=path))
    assert len(str(caught.value)) < 600 + len(str(path))
