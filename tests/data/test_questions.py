from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from tove_core.config import DataConfig, RunConfig
from tove_core.data.formats import llava_turns
from tove_core.data.readers import read
from tove_core.errors import ConfigError, DataError
from tove_core.settings import read_config


def write(folder: Path, name: str, content: object) -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


def lines(folder: Path, *records: object) -> Path:
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder / "data.jsonl"


# --- VQAv2 ------------------------------------------------------------------------------------------------------------

ANSWERS = ["no", "no", "no", "yes", "no", "maybe", "no", "no", "no", "yes"]


@pytest.fixture
def vqa(tmp_path):
    (tmp_path / "COCO_val2014_000000000042.jpg").write_bytes(b"x")
    asked = [{"image_id": 42, "question": f"Is it {n}?", "question_id": 42000 + n} for n in range(2)]
    told = [
        {
            "question_id": 42000 + n,
            "image_id": 42,
            "question_type": "is it",
            "answer_type": "yes/no",
            "multiple_choice_answer": "no",
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(ANSWERS, 1)],
        }
        for n in (1, 0)  # in another order: they are joined by id
    ]
    write(tmp_path, "a.json", {"annotations": told})
    return write(tmp_path, "q.json", {"questions": asked, "data_subtype": "val2014"})


def test_vqav2_joins_answers_by_question_and_keeps_all_ten(vqa):
    options = {"annotations": str(vqa.parent / "a.json")}
    first, second = read(DataConfig(reader="vqav2", path=vqa, options=options))
    assert (first.id, first.prompt, second.prompt) == ("42000", "Is it 0?", "Is it 1?")
    assert list(first.targets) == ANSWERS
    assert (first.kind, first.meta["multiple_choice_answer"]) == ("yes/no", "no")
    assert first.image_key == second.image_key


def test_vqav2_without_annotations_is_for_inference_only(vqa):
    with pytest.raises(DataError, match=r"2 of 2 samples .* have no target text"):
        read(DataConfig(reader="vqav2", path=vqa))
    assert [s.targets for s in read(DataConfig(reader="vqav2", path=vqa), inference=True)] == [(), ()]


def test_vqav2_refuses_annotations_of_another_file_and_unknown_image_names(vqa):
    other = write(vqa.parent, "b.json", {"annotations": []})
    with pytest.raises(DataError, match=r"question_id 42000\) is not in .*b\.json"):
        read(DataConfig(reader="vqav2", path=vqa, options={"annotations": str(other)}))
    with pytest.raises(DataError, match=r"cannot name .*data\.options\.image_name"):
        read(DataConfig(reader="vqav2", path=vqa, options={"image_name": "{subset:d}.jpg"}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{number}.jpg", r"holds \{number\}, but \{image_id\} and \{subset\} are all"),
        ("{image_id.foo}", r"holds \{image_id\.foo\}"),
        ("{subset[a]}", r"holds \{subset\[a\]\}"),
        ("{}.jpg", r"holds \{\}"),
        ("{image_id", "image_name"),
        ("{image_id:{number}}", r"holds \{number\}"),
    ],
)
@pytest.mark.parametrize("reader", ["vqav2", "gqa"])
def test_templates_that_name_something_else_are_refused_as_options(vqa, reader, name, words):
    with pytest.raises(ConfigError, match=words):
        read(DataConfig(reader=reader, path=vqa, options={"image_name": name}))


# --- GQA, POPE, VSR ---------------------------------------------------------------------------------------------------


def gqa(image: str, **more: object) -> dict[str, object]:
    return {"imageId": image, "question": "Is it red?", "answer": "no", "fullAnswer": "No, it is not.", **more}


def test_gqa_reads_a_file_or_a_folder_of_chunks(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "chunks").mkdir()
    for name in ("n1", "n2"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"x")
    types = {"structural": "verify", "semantic": "attr", "detailed": "verifyAttr"}
    write(tmp_path / "chunks", "b.json", {"002": gqa("n2")})
    file = write(tmp_path / "chunks", "a.json", {"001": gqa("n1", types=types)})
    (one,) = read(DataConfig(reader="gqa", path=file, images=tmp_path / "images", options={"full_answers": True}))
    assert (one.id, one.kind, one.targets) == ("001", "verify", ("No, it is not.",))
    both = read(DataConfig(reader="gqa", path=file.parent, images=tmp_path / "images"))
    assert [(s.id, s.targets) for s in both] == [("001", ("no",)), ("002", ("no",))]


def test_pope_reads_json_lines_that_are_called_json(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    rows = [
        {"question_id": n, "image": "a.jpg", "text": f"Is there a {what} in the image?", "label": label}
        for n, (what, label) in enumerate([("dog", "yes"), ("car", "no")], 1)
    ]
    path = lines(tmp_path, *rows).rename(tmp_path / "coco_pope_random.json")
    samples = read(DataConfig(reader="pope", path=path))
    assert [(s.id, s.targets) for s in samples] == [("1", ("yes",)), ("2", ("no",))]
    assert samples[0].prompt == "Is there a dog in the image?"
    assert {s.kind for s in samples} == {"random"}


POPE = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("coco_pope_popular.json", "popular"),
        ("aokvqa_pope_seem_adversarial.json", "adversarial"),
        ("mine.json", "yes/no"),
        ("randomised.json", "yes/no"),  # holds the letters of a split, and is none
        ("random_and_popular.json", "yes/no"),
    ],
)
def test_the_kind_of_a_pope_question_is_the_split_that_its_file_names(name, kind, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    (one,) = read(DataConfig(reader="pope", path=lines(tmp_path, POPE).rename(tmp_path / name)))
    assert (one.id, one.kind) == ("1", kind)


def test_a_folder_of_pope_is_its_three_splits_whose_ids_repeat(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"x")
    splits = ("random", "popular", "adversarial")
    for n, split in enumerate(splits):
        rows = [{**POPE, "question_id": 1 + k, "label": ("no", "yes", "no")[k]} for k in range(n + 1)]
        lines(tmp_path, *rows).rename(tmp_path / f"coco_pope_{split}.json")
    write(tmp_path, "instances.json", {"another": "file"})
    samples = read(DataConfig(reader="pope", path=tmp_path, images=tmp_path / "images"))
    assert [(s.id, s.kind, s.targets) for s in samples] == [
        ("random/1", "random", ("no",)),
        ("popular/1", "popular", ("no",)),
        ("popular/2", "popular", ("yes",)),
        ("adversarial/1", "adversarial", ("no",)),
        ("adversarial/2", "adversarial", ("yes",)),
        ("adversarial/3", "adversarial", ("no",)),
    ]


def test_a_folder_without_each_split_of_pope_once_is_refused(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    lines(tmp_path, POPE).rename(tmp_path / "coco_pope_random.json")
    with pytest.raises(DataError, match=r"holds no file of POPE's split popular .*coco_pope_popular\.json.*; complete"):
        read(DataConfig(reader="pope", path=tmp_path))
    for name in ("coco_pope_popular", "coco_pope_adversarial", "gqa_pope_random"):
        lines(tmp_path, POPE).rename(tmp_path / f"{name}.json")
    with pytest.raises(DataError, match=r"2 files of POPE's split random \(coco_pope_random\.json, gqa_pope_random"):
        read(DataConfig(reader="pope", path=tmp_path))


def vsr(label: object, **more: object) -> dict[str, object]:
    return {"image": "a.jpg", "caption": "The cat is under the bed.", "label": label, "relation": "under", **more}


def test_vsr_turns_labels_into_words_and_keeps_the_votes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    path = lines(tmp_path, vsr(1, vote_true_validator_id=[2, 3]), vsr(0))
    true, false = read(DataConfig(reader="vsr", path=path))
    assert (true.prompt, true.targets, true.kind) == ("The cat is under the bed.", ("true",), "under")
    assert false.targets == ("false",) and true.meta == {"vote_true_validator_id": [2, 3]}
    options = {"question": "Is this so: {caption}", "answers": ["no", "yes"]}
    asked = read(DataConfig(reader="vsr", path=path, options=options))
    assert (asked[0].prompt, asked[0].targets) == ("Is this so: The cat is under the bed.", ("yes",))


def test_vsr_refuses_labels_and_templates_it_cannot_use(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="line 2 has the label 'yes'"):
        read(DataConfig(reader="vsr", path=lines(tmp_path, vsr(1), vsr("yes"))))
    with pytest.raises(ConfigError, match=r"must hold \{caption\} once"):
        read(DataConfig(reader="vsr", path=lines(tmp_path, vsr(1)), options={"question": "What?"}))


# --- LLaVA ------------------------------------------------------------------------------------------------------------


def talk(*texts: str, **more: object) -> dict[str, object]:
    said = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": "a", "image": "a.jpg", "conversations": said, **more}


@pytest.fixture
def llava(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")

    def config(*records: object, **options: object) -> DataConfig:
        return DataConfig(reader="llava", path=write(tmp_path, "data.json", list(records)), options=options)

    return config


def test_every_answer_of_a_conversation_is_a_sample_with_what_was_said_before(llava):
    record = talk("<image>\nWhat is it?", "A dog.", "What colour?", "Brown.")
    samples = read(llava(record, talk("Again?\n<image>", "Yes.")))
    assert [s.id for s in samples] == ["a/0", "a/1", "a#2/0"]
    assert [s.prompt for s in samples] == ["What is it?", "What is it?\nA dog.\nWhat colour?", "Again?"]
    assert [s.targets for s in samples] == [("A dog.",), ("Brown.",), ("Yes.",)]
    assert [s.id for s in read(llava(record, turns="first"))] == ["a/0"]


def test_conversations_over_several_images_keep_their_order(llava, tmp_path):
    record = talk("<image> <image> Which is older?", "The second.", image=["b.jpg", "a.jpg"])
    (only,) = read(llava(record))
    assert only.images == (tmp_path / "b.jpg", tmp_path / "a.jpg")
    assert only.prompt == "<image> <image> Which is older?"
    record = talk("<image>x<image>", "y", "and <b>?", "z", image=["b.jpg", "a.jpg"])
    assert [s.prompt for s in read(llava(record))] == ["<image>x<image>", "<image>x<image>\ny\nand <b>?"]
    (bare,) = read(llava(talk("Which is older?", "The second.", image=["b.jpg", "a.jpg"])))
    assert bare.prompt == "Which is older?"


def test_conversations_without_image_are_refused_or_skipped_as_told(llava):
    bare = {"id": "t", "conversations": talk("Hello", "Hi")["conversations"]}
    with pytest.raises(DataError, match=r"item 1 has no image under .* \(it has id, conversations\); .*text_only"):
        read(llava(talk("<image>x", "y"), bare))
    config = llava(bare, talk("<image>x", "y"), bare, text_only="skip")
    with pytest.warns(UserWarning, match=r"2 of 3 conversations of .*data\.json have no image and are left") as noted:
        assert [s.id for s in read(config)] == ["a/0"]
    assert len(noted) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(llava(talk("<image>x", "y"), text_only="skip"))


def test_the_recipe_reads_a_mix_that_holds_conversations_without_image(tmp_path):
    recipe = Path(__file__).parents[2] / "docs" / "recipes" / "llava.yaml"
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "a.jpg").write_bytes(b"x")
    bare = {"id": "t", "conversations": talk("Hello", "Hi")["conversations"]}
    path = write(tmp_path, "mix.json", [talk("What?\n<image>", "That.", image="coco/a.jpg"), bare])
    data = read_config(RunConfig, recipe, [f"data.path={path}", f"data.images={tmp_path}"]).data
    with pytest.warns(UserWarning, match="1 of 2 conversations"):
        (only,) = read(data)
    assert (only.prompt, only.targets, only.image) == ("What?", ("That.",), tmp_path / "coco" / "a.jpg")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (talk("<image>x", "y", "z"), "no conversation of questions with an answer each"),
        (talk("x", "y", "<image>z", "w"), "turn 2 has <image> 1 times for 1 images"),
        (talk("<image><image>x", "y"), "turn 0 has <image> 2 times for 1 images"),
        (talk("<image>", "y"), "turn 0 says nothing"),
        (talk("x", " "), "has ' ' as 'value'"),
        ({**talk("x", "y"), "conversations": [{"from": "gpt", "value": "x"}] * 2}, "turn 0 is from 'gpt'"),
        (talk("x", "y", image=[3]), r"has the image \[3\]"),
    ],
)
def test_malformed_conversations_are_refused(llava, record, words):
    with pytest.raises(DataError, match=words):
        read(llava(record))


# --- chat messages ----------------------------------------------------------------------------------------------------


def chat(*texts: object, images: object = ("a.jpg",), system: object = None, **more: object) -> dict[str, object]:
    said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    first = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*first, *said], "images": list(images) if isinstance(images, tuple) else images, **more}


def test_chat_messages_are_read_as_conversations_are(llava, tmp_path, monkeypatch):
    texts = ("<image>What is it?", "A dog.", "What colour?", "Brown.")
    plain, other = (read(llava(record)) for record in (talk(*texts), chat(*texts, id="a", images="a.jpg")))
    assert other == plain and [s.images for s in other] == [s.images for s in plain]
    (listed, _) = read(llava(chat(*texts)))
    assert (listed.id, listed.images, listed.prompt) == ("item 0/0", (tmp_path / "a.jpg",), "What is it?")
    mixed = [{"role": "human", "content": "x"}, {"from": "assistant", "value": "y"}]
    assert read(llava({"image": "a.jpg", "conversations": mixed}))[0].targets == ("y",)
    monkeypatch.setattr(llava_turns, "_common", lambda turns: None)  # turn by turn, as those are that are not as most
    assert read(llava(talk(*texts))) == read(llava(chat(*texts, id="a", images="a.jpg"))) == plain


def test_marks_of_several_images_keep_their_places_in_chat_messages(llava, tmp_path):
    two = ("b.jpg", "a.jpg")
    first, second = read(llava(chat("<image> Is it <image>?", "No.", "Why?", "So.", images=two, system="Be short.")))
    assert first.images == second.images == (tmp_path / "b.jpg", tmp_path / "a.jpg")
    assert first.prompt == "Be short.\n<image> Is it <image>?"
    assert second.prompt == "Be short.\n<image> Is it <image>?\nNo.\nWhy?"
    (bare,) = read(llava(chat("Which?", "That.", images=two)))
    assert bare.prompt == "Which?"


@pytest.mark.parametrize(
    "record",
    [
        chat("<image>x", "y", "z", "w", system="Be short. "),
        chat("<image>x", "y", "z", "w", system=[{"type": "text", "text": "Be short."}]),
        talk("<image>x", "y", "z", "w", system="Be short."),
        chat("x", "y", "z", "w", system="") | {"system": "Be short."},
    ],
)
def test_a_system_text_stands_before_the_first_question(llava, record):
    assert [s.prompt for s in read(llava(record))] == ["Be short.\nx", "Be short.\nx\ny\nz"]


def test_a_system_text_that_says_nothing_is_none(llava):
    first = {"from": "system", "value": ""}
    for record in (chat("x", "y", system=""), talk("x", "y", system=""), talk("x", "y", system=None)):
        assert [s.prompt for s in read(llava(record))] == ["x"]
    record = talk("x", "y")
    assert [s.prompt for s in read(llava(record | {"conversations": [first, *record["conversations"]]}))] == ["x"]  # type: ignore[misc]


def test_content_in_parts_is_one_text_with_a_mark_for_each_image(llava):
    image = {"type": "image"}

    def text(value: str) -> dict[str, object]:
        return {"type": "text", "text": value, "index": None}

    (one,) = read(llava(chat([image, text("What is it?")], [text("A dog.")])))
    assert (one.prompt, one.targets) == ("What is it?", ("A dog.",))
    (two,) = read(llava(chat([image, text(" and "), {**image, "text": None}], "x", images=("a.jpg", "b.jpg"))))
    assert two.prompt == "<image> and <image>"


def test_large_files_of_chat_messages_are_read_line_by_line(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(chat(f"q{n}", "a")) + "\n" for n in range(3)))
    config = DataConfig(reader="llava", path=path)
    assert [s.prompt for s in read(config)] == ["q0", "q1", "q2"]


def test_chat_messages_without_image_are_counted_as_conversations_are(llava):
    records = [chat("<image>x", "y"), chat("x", "y", images=[]), {"messages": chat("x", "y")["messages"]}]
    with pytest.warns(UserWarning, match="2 of 3 conversations of"):
        assert len(read(llava(*records, text_only="skip"))) == 1
    with pytest.raises(DataError, match=r"item 1 has no image under .*\(it has messages, images\)"):
        read(llava(*records))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": "x", "img": "a.jpg"}, r"has neither 'conversations' nor 'messages' \(it has text, img\); .* reader"),
        (chat("x", "y", conversations=[]), "both 'conversations' and 'messages'"),
        (chat("x", "y", image="b.jpg"), "both 'image' and 'images'"),
        (chat("x", "y", "z"), "no conversation of questions with an answer each"),
        (chat(system="x"), "no conversation of questions with an answer each"),
        (chat("x", None), "has None as 'content'"),
        (chat("x", "y", images=[{"path": "a.jpg"}]), r"has the image \[\{'path'"),
        (chat("x", "y", "<image>z", "w"), "turn 2 has <image> 1 times for 1 images, but it belongs into the first"),
        (chat("x", "y", system="<image>"), "<image> in its system text"),
        (chat("x", "y", system=3), "has 3 as 'content'"),
        (talk("x", "y", system=[3]), r"has \[3\] as 'system'"),
        (chat("x", "y", system="a") | {"system": "b"}, "a system text of its own and one as a turn"),
        (
            {"images": ["a.jpg"], "messages": [{"role": "tool", "content": "x"}] * 2},
            "turn 0 is from 'tool', but 'user'",
        ),
        ({"images": ["a.jpg"], "messages": [{"role": ["u"], "content": "x"}] * 2}, "turn 0 is from "),
        ({"images": ["a.jpg"], "messages": [{"content": "x"}] * 2}, "has no 'from'"),
        ({"images": ["a.jpg"], "messages": ["x", "y"]}, "is str, but an object with 'from' is wanted"),
        ({"images": ["a.jpg"], "messages": "x"}, "no conversation of questions"),
        (
            {"images": ["a.jpg"], "messages": [*chat("x", "y")["messages"], *chat(system="z")["messages"], {}]},  # type: ignore[misc]
            "turn 2 is from 'system', but 'user' is wanted; a system turn only comes first",
        ),
        (
            chat([{"type": "image", "image": "b.jpg"}, {"type": "text", "text": "x"}], "y"),
            "turn 0 has the part .*'images'",
        ),
        (chat([{"type": "video"}], "y"), "turn 0 has the part {'type': 'video'}, but"),
        (chat([{"type": "text", "text": 3}], "y"), "turn 0 has the part"),
        (chat(["x"], "y"), "turn 0 has the part 'x'"),
        (chat([{"type": "image", "image": "b.jpg"}], "y", images=None), "more than text in its turns, but no 'images'"),
    ],
)
def test_chat_messages_that_are_none_are_refused(llava, record, words):
    for text_only in ("refuse", "skip"):
        with pytest.raises(DataError, match=words):
            read(llava(record, text_only=text_only))
