from __future__ import annotations

import json
from pathlib import Path

import pytest

from tove_core.config import DataConfig
from tove_core.data.readers import read
from tove_core.errors import ConfigError, DataError


def write(folder: Path, content: object, *images: str) -> Path:
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "data.json").write_text(json.dumps(content))
    return folder / "data.json"


def karpathy(split: str, number: int, **more: object) -> dict[str, object]:
    sentences = [{"raw": f" sentence {number}. ", "tokens": [], "imgid": number, "sentid": number}]
    return {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences, **more}


def test_karpathy_counts_restval_as_train_unless_told_otherwise(tmp_path):
    coco = [karpathy(s, n, filepath="val2014", cocoid=100 + n) for n, s in enumerate(("train", "restval", "val"))]
    path = write(tmp_path, {"images": coco, "dataset": "coco"}, *(f"val2014/{n}.jpg" for n in range(3)))
    samples = read(DataConfig(reader="karpathy", path=path))
    assert [(s.id, s.targets) for s in samples] == [("100", ("sentence 0.",)), ("101", ("sentence 1.",))]
    assert samples[1].meta["split"] == "restval" and samples[1].image == tmp_path / "val2014" / "1.jpg"
    alone = read(DataConfig(reader="karpathy", path=path, options={"restval": False}))
    assert [s.id for s in alone] == ["100"]
    assert [s.id for s in read(DataConfig(reader="karpathy", path=path, split="val"))] == ["102"]


def test_karpathy_of_flickr_has_neither_folder_nor_coco_id(tmp_path):
    path = write(tmp_path, {"images": [karpathy("test", 7)], "dataset": "flickr30k"}, "7.jpg")
    (only,) = read(DataConfig(reader="karpathy", path=path, split="test"))
    assert (only.id, only.image) == ("7", tmp_path / "7.jpg")


def test_karpathy_without_the_split_names_those_it_has(tmp_path):
    path = write(tmp_path, {"images": [karpathy("test", 7)]}, "7.jpg")
    with pytest.raises(DataError, match=r"no images of split 'val' \(it has test\)"):
        read(DataConfig(reader="karpathy", path=path, split="val"))


def test_blip_gathers_the_rows_of_an_image_and_takes_lists(tmp_path):
    rows = [
        {"image": "a.jpg", "caption": "one", "image_id": "coco_1"},
        {"image": "b.jpg", "caption": ["two", " three "]},
        {"image": "a.jpg", "caption": "four", "image_id": "coco_1"},
    ]
    path = write(tmp_path, rows, "a.jpg", "b.jpg")
    samples = read(DataConfig(reader="blip", path=path))
    assert [(s.id, s.targets) for s in samples] == [("a.jpg", ("one", "four")), ("b.jpg", ("two", "three"))]
    assert samples[0].meta == {"image_id": "coco_1"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"image": "a.jpg"}], "item 0 has no 'caption'"),
        ([{"image": "a.jpg", "caption": []}], "item 0 has an empty list as 'caption'"),
        ([{"image": 3, "caption": "x"}], "item 0 has 3 as 'image'"),
        ([5], "item 0 is int"),
    ],
)
def test_broken_blip_lists_are_refused_with_the_item(tmp_path, content, words):
    with pytest.raises(DataError, match=words):
        read(DataConfig(reader="blip", path=write(tmp_path, content, "a.jpg")))


def test_options_are_checked_by_the_reader_they_are_given_to(tmp_path):
    path = write(tmp_path, {"images": [karpathy("train", 0)]}, "0.jpg")
    with pytest.raises(ConfigError, match=r"reader 'karpathy': restvall: .*did you mean 'restval'"):
        read(DataConfig(reader="karpathy", path=path, options={"restvall": False}))
    with pytest.raises(ConfigError, match="reader 'karpathy': restval: it should be a valid boolean"):
        read(DataConfig(reader="karpathy", path=path, options={"restval": "some"}))
    with pytest.raises(ConfigError, match="reader 'blip' was given the option 'x', but has none"):
        read(DataConfig(reader="blip", path=path, options={"x": 1}))


def test_nocaps_reads_domains_and_images_without_captions(tmp_path):
    content = {
        "images": [{"id": 0, "file_name": "a.jpg", "open_images_id": "a", "domain": "near-domain"}],
        "annotations": [{"image_id": 0, "id": 0, "caption": "a dog"}],
    }
    (only,) = read(DataConfig(reader="nocaps", path=write(tmp_path, content, "a.jpg")))
    assert (only.kind, only.targets) == ("near-domain", ("a dog",))
    del content["annotations"]
    (bare,) = read(DataConfig(reader="nocaps", path=write(tmp_path, content)), inference=True)
    assert bare.targets == ()
