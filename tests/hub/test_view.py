from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tove_core.errors import ConfigError, ImageError
from tove_core.hub.view import Preprocessor, resample
from tove_core.spec import Input

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
CLIP = Input(size=(16, 16), mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


def smooth(height: int, width: int) -> np.ndarray:
    """A picture with edges and fine texture."""
    picture = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture[: height // 2, width // 3 :] = (250, 5, 120)
    return picture


def pillow(array: np.ndarray, size: tuple[int, int], interpolation: str = "bicubic") -> torch.Tensor:
    """Resize with Pillow in floats: in 8 bits it rounds and clips between its two passes."""
    bands = [Image.fromarray(array[:, :, c].astype(np.float32) / 255) for c in range(3)]
    resized = [np.asarray(band.resize((size[1], size[0]), FILTERS[interpolation])) for band in bands]
    return torch.from_numpy(np.stack(resized)).clamp(0, 1)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(9, 13), (40, 21), (31, 90), (37, 53)])
def test_resampling_agrees_with_pillow(interpolation: str, size: tuple[int, int]) -> None:
    array = smooth(37, 53)
    ours = resample(tensor(array), "squash", Input(size=size, interpolation=interpolation))  # type: ignore[arg-type]
    assert torch.allclose(ours, pillow(array, size, interpolation), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(30, 51), (51, 30), (24, 24), (7, 50)])
def test_crop_is_the_central_square(height: int, width: int) -> None:
    array = smooth(height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = array[top : top + side, left : left + side]
    ours = resample(tensor(array), "crop", Input(size=(10, 14)))
    assert torch.allclose(ours, pillow(cut, (10, 14)), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(30, 51), (51, 30), (7, 50)])
def test_pad_is_the_whole_image_centred_in_a_square(height: int, width: int) -> None:
    array = smooth(height, width)
    side = max(height, width)
    square = np.zeros((side, side, 3), dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = array
    ours = resample(tensor(array), "pad", Input(size=(12, 17)))
    assert torch.allclose(ours, pillow(square, (12, 17)), atol=1e-5)


@pytest.mark.parametrize("view", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(16, 16), (30, 20), (64, 48)])
def test_a_marker_is_seen_at_the_same_place_at_every_size(view: str, size: tuple[int, int]) -> None:
    image = torch.zeros(3, 40, 120, dtype=torch.uint8)
    image[:, 26:34, 48:56] = 255  # centred at row 30 of 40 and column 52 of 120
    place = {"squash": (30 / 40, 52 / 120), "crop": (30 / 40, 12 / 40), "pad": (70 / 120, 52 / 120)}[view]
    seen = resample(image, view, Input(size=size, interpolation="bilinear"))[0]  # type: ignore[arg-type]
    rows, columns = ((torch.arange(side) + 0.5) / side for side in size)
    row, column = (seen.sum(1) * rows).sum() / seen.sum(), (seen.sum(0) * columns).sum() / seen.sum()
    assert (float(row), float(column)) == pytest.approx(place, abs=0.01)


def test_views_cover_the_extent_they_claim() -> None:
    image = torch.zeros(3, 20, 60, dtype=torch.uint8)
    image[0, :, :6] = 255  # red: the leftmost tenth
    image[1, :, 20:40] = 255  # green: exactly the central square
    input = Input(size=(30, 30), interpolation="bilinear")
    squash, crop, pad = (resample(image, view, input) for view in ("squash", "crop", "pad"))
    assert squash[0, :, :2].min() > 0.99 and squash[0, :, 4:].max() < 0.01
    assert squash[1, :, 11:19].min() > 0.99
    assert crop[1].min() > 0.99 and crop[0].max() < 0.01
    assert pad[1, 11:19, 11:19].min() > 0.99
    assert pad[:, :9].abs().max() < 0.01 and pad[:, 21:].abs().max() < 0.01
    assert pad[0, 11:19, :2].min() > 0.99


def test_equal_sizes_are_left_exactly_as_they_are() -> None:
    image = torch.randint(0, 256, (3, 11, 19), dtype=torch.uint8)
    assert torch.equal(resample(image, "squash", Input(size=(11, 19))), image.float() / 255)


def test_bicubic_overshoot_is_clamped_before_normalising() -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, :, 4:] = 255
    result = resample(image, "squash", Input(size=(64, 64)))
    assert result.min() == 0 and result.max() == 1


def test_range_mean_and_std_are_applied_in_that_order() -> None:
    image = torch.full((3, 4, 4), 51, dtype=torch.uint8)
    input = Input(size=(4, 4), range=(-1.0, 3.0), mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    value = 51 / 255 * 4 - 1
    expected = torch.tensor([(value - 0.1) / 0.5, value - 0.2, (value - 0.3) / 2])
    assert torch.allclose(resample(image, "squash", input)[:, 2, 1], expected)


def test_padding_is_zero_after_normalising_whatever_the_range() -> None:
    image = torch.full((3, 10, 40), 255, dtype=torch.uint8)
    input = Input(size=(20, 20), range=(0.0, 255.0), mean=(123.0, 116.0, 103.0), std=(58.0, 57.0, 57.0))
    for wanted in (input, CLIP):
        seen = resample(image, "pad", wanted)
        assert seen[:, :4].abs().max() < 1e-4
        assert seen[:, wanted.size[0] // 2].min() > 1


def test_preprocessor_gives_one_batch_per_key() -> None:
    images = [smooth(20, 33), smooth(48, 17), Image.fromarray(smooth(9, 9))]
    inputs = {"clip": CLIP, "tall": Input(size=(28, 14)), "again": CLIP.model_copy()}
    batches = Preprocessor(inputs, "pad")(images)
    assert {key: tuple(batch.shape) for key, batch in batches.items()} == {
        "clip": (3, 3, 16, 16),
        "tall": (3, 3, 28, 14),
        "again": (3, 3, 16, 16),
    }
    assert batches["clip"] is batches["again"]
    assert torch.equal(batches["tall"][1], resample(tensor(images[1]), "pad", inputs["tall"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("view", ["squash", "crop", "pad"])
def test_what_one_key_gets_does_not_depend_on_the_others(view: str) -> None:
    images = [smooth(35, 50), smooth(12, 90)]
    alone = Preprocessor({"clip": CLIP}, view)(images)["clip"]  # type: ignore[arg-type]
    others = {"a": Input(size=(70, 35)), "clip": CLIP, "z": Input(size=(8, 8), mean=(0.5, 0.5, 0.5))}
    assert torch.equal(alone, Preprocessor(others, view)(images)["clip"])  # type: ignore[arg-type]
    assert torch.equal(alone[1:], Preprocessor({"clip": CLIP}, view)(images[1:])["clip"])  # type: ignore[arg-type]


def test_images_prepared_one_by_one_give_the_same_batches() -> None:
    images = [smooth(35, 50), smooth(12, 90), smooth(9, 8)]
    preprocess = Preprocessor({"clip": CLIP, "tall": Input(size=(28, 14)), "again": CLIP.model_copy()}, "pad")
    wanted, seen = preprocess(images), [preprocess.see(image) for image in images]
    found = preprocess([seen[0], images[1], seen[2]])
    assert all(torch.equal(found[key], wanted[key]) for key in wanted) and found["clip"] is found["again"]
    assert [len(one.rows) for one in seen] == [2, 2, 2]
    with pytest.raises(ImageError, match="prepared for other experts"):
        Preprocessor({"new": Input(size=(8, 8))}, "pad")(seen)


def test_no_images_and_unknown_views_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"'stretch'.*squash, crop, pad"):
        Preprocessor({"clip": CLIP}, "stretch")  # type: ignore[arg-type]
    for nothing in ([], "picture.png"):
        with pytest.raises(ImageError, match="no images"):
            Preprocessor({"clip": CLIP})(nothing)  # type: ignore[arg-type]


def test_an_image_that_was_prepared_in_another_view_is_refused() -> None:
    image = tensor(smooth(30, 51))
    seen = Preprocessor({"clip": CLIP}, "crop").see(image)
    assert torch.equal(Preprocessor({"clip": CLIP}, "crop")([seen])["clip"][0], resample(image, "crop", CLIP))
    with pytest.raises(ImageError, match="prepared in view 'crop', and this model sees 'squash'"):
        Preprocessor({"clip": CLIP})([seen])
