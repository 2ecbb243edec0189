"""What makes a million samples bearable must not change what is read."""

from __future__ import annotations

import gc
import json
import os
import pickle
from pathlib import Path

import pytest

from tove_core.data.collector import without_collector
from tove_core.data.files import read_json_lines
from tove_core.data.images import FileImage, ImageFolder
from tove_core.data.sample import Sample, distinct_images, image_key, load_image
from tove_core.demo.data_bench import FORMATS, report_reading, write_samples
from tove_core.errors import DataError
from tove_core.hub.images import read_image


def folder_of(root: Path, count: int) -> ImageFolder:
    (root / "in").mkdir()
    for n in range(count):
        (root / "in" / f"{n}.png").write_bytes(b"%d" % n)
    (root / "in" / "folder.png").mkdir()
    (root / "in" / "link.png").symlink_to(root / "in" / "3.png")
    (root / "in" / "dangling.png").symlink_to(root / "gone.png")
    return ImageFolder(root)


def test_a_folder_finds_the_same_files_before_and_after_it_is_listed(tmp_path):
    folder = folder_of(tmp_path, 70)
    names = [f"in/{n}.png" for n in range(75)] + ["in/folder.png", "in/link.png", "in/dangling.png", "no/1.png", "in"]
    for _ in range(3):
        for name in names:
            there = (tmp_path / name).is_file()
            assert folder.find(name) == (tmp_path / name if there else None), name
    (tmp_path / "in" / "late.png").touch()
    assert folder.find("in/late.png") == tmp_path / "in" / "late.png", "one that came after the listing"


@pytest.mark.parametrize("name", ["./in/1.png", "in//1.png", "in/./1.png", "in/../in/1.png", "in/1.png/", "in/1.png"])
def test_every_spelling_of_a_name_gives_what_a_path_gives(tmp_path, name):
    found = folder_of(tmp_path, 3).find(name)
    wanted = tmp_path / name
    assert found == wanted and image_key(found) == image_key(wanted) and hash(found) == hash(wanted)


def test_absolute_and_empty_names_stand_for_themselves(tmp_path):
    (tmp_path / "a").mkdir()
    folder = folder_of(tmp_path / "a", 2)
    (tmp_path / "out.png").touch()
    assert folder.find(str(tmp_path / "out.png")) == tmp_path / "out.png"
    assert folder.find("") is None and folder.find(".") is None


def test_a_relative_folder_has_absolute_keys(tmp_path, monkeypatch):
    folder_of(tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    found = ImageFolder(Path()).find("in/1.png")
    assert isinstance(found, FileImage)
    assert found == Path("in/1.png") and found.key == image_key(Path("in/1.png")) == f"path:{tmp_path}/in/1.png"


def test_a_file_image_is_read_pickled_and_named_as_its_path(tmp_path):
    from PIL import Image

    Image.new("RGB", (5, 3)).save(tmp_path / "a.png")
    image = ImageFolder(tmp_path).find("a.png")
    assert isinstance(image, FileImage)
    assert os.fspath(image) == str(tmp_path / "a.png") and image.name == "a.png"
    assert read_image(image).shape == read_image(load_image(image)).shape == (3, 3, 5)
    again = pickle.loads(pickle.dumps(image))
    assert again == image and again.key == image.key


def test_one_file_under_two_objects_is_one_image(tmp_path):
    folder = folder_of(tmp_path, 2)
    images = [folder.find("in/1.png"), tmp_path / "in" / "1.png", ImageFolder(tmp_path / "in").find("1.png")]
    assert distinct_images([Sample(str(n), image) for n, image in enumerate(images)])[1] == [(0,), (0,), (0,)]


def test_keys_of_bytes_are_computed_once(monkeypatch):
    import tove_core.data.sample as module

    asked = []
    monkeypatch.setattr(module, "image_digest", lambda image: asked.append(image) or "digest")
    sample = Sample("1", b"x")
    assert sample.image_keys == sample.image_keys == ("sha256:digest",) and len(asked) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": 1} {"b": 2}\n', "line 2 is not JSON"),
        ('{"a": 1\n"b": 2}\n', "line 1 is not JSON"),
        ('{"a": 1}\n"text"\n', "line 2 holds str"),
        ('{"a": 1},\n', "line 1 is not JSON"),
        ('\n\n{"a": \n', "line 3 is not JSON"),
    ],
)
def test_a_line_holds_one_whole_object(tmp_path, text, words):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        list(read_json_lines(tmp_path / "x.jsonl"))


def test_blanks_and_line_ends_do_not_matter(tmp_path):
    records = [{"a": 1}, {"b": "\u2028 x"}, {"c": [1, {"d": None}]}]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (tmp_path / "x.jsonl").write_bytes(f"\ufeff  {lines[0]} \t\r\n \r\n{lines[1]}\n\x0b\n\t{lines[2]}".encode())
    assert list(read_json_lines(tmp_path / "x.jsonl")) == [(1, records[0]), (3, records[1]), (5, records[2])]


@pytest.mark.parametrize("running", [True, False])
def test_the_collector_is_afterwards_as_it_was(running):
    was = gc.isenabled()
    try:
        (gc.enable if running else gc.disable)()
        with pytest.raises(DataError), without_collector():
            assert not gc.isenabled()
            raise DataError("x")
        assert gc.isenabled() == running
    finally:
        (gc.enable if was else gc.disable)()


def test_the_bench_reads_the_same_samples_in_every_format(tmp_path):
    from tove_core.config import DataConfig
    from tove_core.data.readers import read

    write_samples(tmp_path, 70, 50)
    said = []
    for reader, file in zip(FORMATS, ("items.jsonl", "items.csv", "items.json"), strict=True):
        samples = read(DataConfig(reader=reader, path=tmp_path / file))
        said.append([(s.image_key, s.prompt, s.targets) for s in samples])
    assert said[0] == said[1] == said[2] and len(said[0]) == 70
    told = report_reading(70, 50).splitlines()
    assert [line.split()[:5] for line in told] == [[name, "70", "samples", "of", "50"] for name in FORMATS]
