from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tove_core.config import DataConfig
from tove_core.data.readers import read
from tove_core.errors import ConfigError, DataError


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 3), colour).save(path)


def told(folder: Path, inference: bool = False, **options: object) -> list[tuple[str, tuple[str, ...]]]:
    config = DataConfig(reader="folder", path=folder, options=options)
    return [(sample.id, sample.targets) for sample in read(config, inference=inference)]


def test_captions_lie_beside_their_images_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", ".hidden/d.jpg"):
        picture(tmp_path / name)
    (tmp_path / "b.txt").write_bytes("\ufeffein Bär\r\n\n  zwei Bären \n".encode())
    (tmp_path / "a.txt").write_text("an ape")
    (tmp_path / "deep" / "er" / "c.txt").write_text("a cat\n")
    (tmp_path / "notes.md").write_text("left alone")
    wanted = [("a.jpg", ("an ape",)), ("b.PNG", ("ein Bär", "zwei Bären")), ("deep/er/c.webp", ("a cat",))]
    assert told(tmp_path) == wanted
    (first, *_) = read(DataConfig(reader="folder", path=tmp_path))
    assert first.image == tmp_path / "a.jpg" and first.prompt is None and first.load() is not None


def test_images_without_captions_are_for_inference(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    assert told(tmp_path, inference=True) == [("a.jpg", ())]
    with pytest.raises(DataError, match=r"a\.jpg"):
        told(tmp_path)


def test_endings_are_options(tmp_path: Path) -> None:
    picture(tmp_path / "a.bmp")
    picture(tmp_path / "b.jpg")
    (tmp_path / "a.caption").write_text("an ape")
    assert told(tmp_path, image=["bmp"], text="caption") == [("a.bmp", ("an ape",))]
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        told(tmp_path, images=["bmp"])
    with pytest.raises(DataError, match=r"has no image \(\.gif\); give another folder"):
        told(tmp_path, image=["gif"])


def test_only_line_ends_part_captions(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_bytes("an ape\u2028asleep\r\na\x0cbear\x85\rit sits".encode())
    assert told(tmp_path) == [("a.jpg", ("an ape\u2028asleep", "a\x0cbear", "it sits"))]


def test_captions_without_an_image_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("an ape")
    (tmp_path / "b.txt").write_text("a bear")
    with pytest.warns(UserWarning, match=r"1 files of captions below .* have no image beside them \(first: b\.txt\)"):
        assert len(told(tmp_path)) == 1


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"a.png": None, "a.txt": "an ape"}, r"a\.jpg and a\.png in .* would share a\.txt; rename one"),
        ({"a.txt": "\n \n"}, r"a\.txt is empty, but a caption is wanted"),
        ({"a.txt": b"\xff"}, r"a\.txt is not UTF-8 text"),
    ],
)
def test_captions_that_cannot_be_used_are_refused(tmp_path: Path, made: dict[str, object], words: str) -> None:
    picture(tmp_path / "a.jpg")
    for name, content in made.items():
        if content is None:
            picture(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else str(content).encode())
    with pytest.raises(DataError, match=words):
        told(tmp_path)


def test_a_file_and_a_folder_of_images_elsewhere_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="wants a folder of images"):
        told(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"data\.images was given"):
        read(DataConfig(reader="folder", path=tmp_path, images=tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="links want a privilege on Windows")
def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    picture(tmp_path / "other" / "b.jpg")
    picture(tmp_path / "data" / "a.jpg")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "back").symlink_to(tmp_path / "data")
    assert [name for name, _ in told(tmp_path / "data", inference=True)] == ["a.jpg", "linked/b.jpg"]
