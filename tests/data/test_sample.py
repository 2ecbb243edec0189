from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from tove_core.data.sample import Sample, distinct_images, image_digest
from tove_core.errors import DataError, ImageError


def test_samples_of_one_image_share_its_row_and_keep_their_order():
    samples = [Sample(str(n), Path(f"{name}.png"), targets=("x",)) for n, name in enumerate("abacb")]
    images, rows = distinct_images(samples)
    assert images == [Path("a.png"), Path("b.png"), Path("c.png")]
    assert rows == [(0,), (1,), (0,), (2,), (1,)]


def test_equal_pixels_are_one_image_and_shape_and_type_count():
    pixels = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    same, turned, wider = pixels.clone(), pixels.reshape(3, 4, 1), pixels.to(torch.int32)
    _, rows = distinct_images([Sample(str(n), image) for n, image in enumerate((pixels, same, turned, wider))])
    assert rows == [(0,), (0,), (1,), (2,)]
    assert image_digest(pixels) == image_digest(pixels.numpy()) == image_digest(np.asfortranarray(pixels.numpy()))


def test_pillow_images_are_told_apart_by_what_is_seen():
    red, green, turned = Image.new("P", (4, 4)), Image.new("P", (4, 4)), Image.new("RGB", (8, 4), (255, 0, 0))
    red.putpalette([255, 0, 0] * 256)
    green.putpalette([0, 255, 0] * 256)
    turned.getexif()[ExifTags.Base.Orientation] = 6
    printed, clear = (Image.new(mode, (4, 4), (9, 9, 9, 9)) for mode in ("CMYK", "RGBA"))
    images = (red, green, printed, clear, turned, Image.new("RGB", (8, 4), (255, 0, 0)))
    assert len({image_digest(image) for image in images}) == len(images)
    plain = red.convert("RGB")
    assert image_digest(red) == image_digest(plain) == image_digest(np.asarray(plain))


def test_a_pillow_image_that_cannot_be_decoded_is_said_to_be(tmp_path):
    Image.effect_noise((64, 64), 99).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:900])
    with pytest.raises(ImageError, match="the Pillow image is truncated or damaged"):
        image_digest(Image.open(tmp_path / "b.jpg"))


def test_digest_of_a_file_and_of_its_bytes_agree(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert image_digest(tmp_path / "a") == image_digest(b"abc") == hashlib.sha256(b"abc").hexdigest()


def test_a_changed_file_keeps_its_key_but_not_its_digest(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    sample = Sample("1", tmp_path / "a")
    key, digest = sample.image_key, image_digest(sample.image)
    (tmp_path / "a").write_bytes(b"abd")
    assert Sample("1", tmp_path / "a").image_key == key
    assert image_digest(sample.image) != digest


def test_the_name_of_a_file_as_text_is_its_path_alone_and_among_several(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    name, path = str(tmp_path / "a"), tmp_path / "a"
    alone, several = Sample("1", name), Sample("2", (name, b"abc", path))
    assert alone.image == path and several.image == (path, b"abc", path)
    assert image_digest(alone.image) == image_digest(b"abc")
    assert distinct_images([alone, several, Sample("3", path)])[1] == [(0,), (0, 1, 0), (0,)]
    shared = (path, path)
    assert Sample("4", shared).image is shared


def test_equality_ignores_pixels_and_samples_survive_pickling():
    sample = Sample("1", torch.zeros(3, 2, 2), "what?", ("a", "b"), "shape", {"n": 1})
    assert sample == Sample("1", torch.ones(3, 2, 2), "what?", ("a", "b"), "shape", {"n": 1})
    assert sample != Sample("1", sample.image, "what?", ("a", "c"), "shape", {"n": 1})
    assert pickle.loads(pickle.dumps(sample)) == sample
    assert len({sample, Sample("1", b"", "what?", ("a", "b"), "shape")}) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"id": "", "image": b"x"}, "ids are texts that are not empty"),
        ({"id": 3, "image": b"x"}, "the id 3"),
        ({"id": "a", "image": None}, "sample 'a' has no image"),
        ({"id": "a", "image": b"x", "targets": "word"}, "a tuple of texts is wanted"),
        ({"id": "a", "image": b"x", "targets": ("ok", " ")}, "must say something"),
        ({"id": "a", "image": b"x", "prompt": ""}, "must say something"),
    ],
)
def test_useless_samples_are_refused(arguments, words):
    with pytest.raises(DataError, match=words):
        Sample(**arguments)


def test_objects_without_pixels_and_missing_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="no pixels"):
        image_digest(object())
    with pytest.raises(DataError, match=r"gone\.png cannot be read"):
        image_digest(tmp_path / "gone.png")
