from __future__ import annotations

import io
import mmap
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tove_core.errors import ImageError
from tove_core.hub.images import read_image
from tove_core.listed import listed


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    array = noise()
    picture = Image.fromarray(array)
    path = tmp_path / "picture.png"
    picture.save(path)
    expected = torch.from_numpy(array).permute(2, 0, 1)
    for source in (path, str(path), path.read_bytes(), picture, array, expected):
        result = read_image(source)
        assert result.dtype == torch.uint8
        assert torch.equal(result, expected)


class Pipe(io.RawIOBase):
    """A file that cannot go back, as a socket."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def readall(self) -> bytes:
        return self.data


class Upload:
    """What a web framework hands over: it can be read and iterated, and is no file of Python's."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)
        self.read, self.seek = self.stream.read, self.stream.seek

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.stream)


def test_open_files_and_buffers_are_images_however_often_they_are_given(tmp_path: Path) -> None:
    expected = torch.from_numpy(noise()).permute(2, 0, 1)
    data = encoded(Image.fromarray(noise()))
    (tmp_path / "picture.png").write_bytes(data)
    with (tmp_path / "picture.png").open("rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(data)  # which leaves it at its end
        sources = [file, spooled, io.BytesIO(data), Upload(data), Pipe(data), bytearray(data), memoryview(data)]
        for source in sources * 2:
            (listing,) = listed(source)
            assert torch.equal(read_image(listing), expected), source


class Awaited:
    """An upload of an asynchronous framework."""

    async def read(self) -> bytes:
        return b""


def closed(file: io.IOBase) -> io.IOBase:
    file.close()
    return file


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (io.StringIO("text"), "the open file gives str; open it in binary mode"),
        (io.BytesIO(), "the open file is empty"),
        (io.BytesIO(b"no picture"), "the open file is not an image that Pillow can open"),
        (closed(io.BytesIO(b"x")), r"the open file cannot be read \(I/O operation on closed file"),
        (Awaited(), "a Awaited was given, which is read by await; give the bytes it holds"),
        (memoryview(b""), "the image of 0 bytes is empty"),
    ],
)
def test_files_that_give_no_image_are_told(source: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["with", "close", "its file", "in memory"])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_closed_picture_is_called_closed_and_not_damaged(tmp_path: Path, way: str, format: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encoded(Image.fromarray(noise(40, 50)), format))
    if way == "with":
        with Image.open(path) as picture:
            pass
    elif way == "its file":
        with path.open("rb") as file:
            picture = Image.open(file)
    else:
        picture = Image.open(path) if way == "close" else Image.fromarray(noise())
        picture.close()
    with pytest.raises(ImageError, match="the Pillow image is closed; load"):
        read_image(picture)
    whole = path.read_bytes()
    damaged = Image.open(io.BytesIO(whole[: len(whole) * 3 // 4]))
    with pytest.raises(ImageError, match="the Pillow image is truncated or damaged"):
        read_image(damaged)


@pytest.mark.parametrize("kind", ["u2", "f4", "f8"])
def test_numbers_of_either_byte_order_are_the_same_picture(kind: str) -> None:
    array = noise().astype(kind) * 257 if kind == "u2" else noise().astype(kind) / 255
    assert torch.equal(read_image(array.astype(f">{kind}")), read_image(array.astype(f"<{kind}")))


def test_an_array_with_negative_strides_or_read_only_is_copied() -> None:
    array = noise()[:, ::-1]
    array.flags.writeable = False
    result = read_image(array)
    result.zero_()
    assert array.any()


def test_floats_stay_floats_in_zero_to_one() -> None:
    values = np.random.default_rng(1).random((4, 6, 3))
    result = read_image(values)
    assert result.dtype == torch.float32
    assert torch.allclose(result, torch.from_numpy(values).permute(2, 0, 1).float())
    assert read_image(torch.rand(3, 2, 9, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_applied(orientation: int) -> None:
    # A red corner at the top left of the picture as it should be seen, 6 high and 10 wide.
    upright = np.zeros((6, 10, 3), dtype=np.uint8)
    upright[0, 0] = (255, 0, 0)
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert torch.equal(read_image(data), torch.from_numpy(upright).permute(2, 0, 1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_over_white(mode: str) -> None:
    picture = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    result = read_image(picture.convert(mode))
    assert result[:, 0, 1].tolist() == [0, 0, 0]
    assert result[:, 1, 2].tolist() == [255, 255, 255]


def test_half_transparency_mixes_with_white() -> None:
    result = read_image(Image.new("RGBA", (1, 1), (200, 0, 100, 128)))
    expected = torch.tensor([200, 0, 100]) * (128 / 255) + 255 * (127 / 255)
    assert (result[:, 0, 0] - expected).abs().max() <= 1


def test_a_transparent_palette_entry_becomes_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    result = read_image(encoded(picture, transparency=0))
    assert result[:, 0].T.tolist() == [[255, 255, 255], [40, 50, 60]]


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    for source in (encoded(Image.fromarray(values)), encoded(Image.fromarray(values), "TIFF"), values):
        assert read_image(source)[0, 0].tolist() == [0, 1, 128, 255]


def test_grey_binary_and_cmyk_become_rgb() -> None:
    assert read_image(Image.new("L", (2, 3), 77)).unique().tolist() == [77]
    assert read_image(Image.new("1", (2, 3), 1)).unique().tolist() == [255]
    assert read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))[:, 4, 4].tolist() == [255, 0, 0]
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert torch.equal(read_image(grey), torch.from_numpy(grey).expand(3, 2, 3))


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_planes_are_the_bands_of_the_picture_as_rgb(mode: str) -> None:
    picture = Image.fromarray(noise(13, 21)).convert(mode)
    before = picture.tobytes()
    result = read_image(picture)
    assert result.is_contiguous()
    assert torch.equal(result, torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))
    result.zero_()
    assert picture.tobytes() == before


@pytest.mark.parametrize("orientation", [0, 3, 6, 9])
def test_a_pillow_image_of_the_caller_is_left_as_it_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.open(io.BytesIO(encoded(Image.fromarray(noise(6, 10)), exif=exif)))
    turned = {3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1)}.get(orientation, lambda a: a)(noise(6, 10))
    assert torch.equal(read_image(picture), torch.from_numpy(turned.copy()).permute(2, 0, 1))
    assert picture.size == (10, 6) and picture.getexif()[0x0112] == orientation
    assert np.array_equal(np.asarray(picture), noise(6, 10))


def test_a_picture_of_floats_is_grey_and_errors_name_it() -> None:
    values = np.random.default_rng(2).random((5, 3), dtype=np.float32)
    assert torch.equal(read_image(Image.fromarray(values)), torch.from_numpy(values).expand(3, 5, 3))
    with pytest.raises(ImageError, match=r"the Pillow image with values from .* floats must lie in 0..1"):
        read_image(Image.fromarray(values + 1))
    with pytest.raises(ImageError, match=r"the Pillow image of shape \[3, 4, 0\] has no pixels"):
        read_image(Image.new("RGB", (0, 4)))


@pytest.mark.parametrize("kind", ["<f4", ">f4", "f2"])
def test_an_array_of_floats_is_copied(kind: str) -> None:
    array = np.random.default_rng(4).random((4, 6, 3)).astype(kind)
    result = read_image(array)
    assert np.array_equal(result.permute(1, 2, 0).numpy(), array.astype(np.float32))
    result.zero_()
    assert array.any()


def test_unreadable_files_are_errors_that_name_the_file(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    broken = {"empty.jpg": b"", "text.jpg": b"not an image at all", "cut.jpg": whole[: len(whole) // 2]}
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=name.replace(".", r"\.")):
            read_image(tmp_path / name)
    for missing in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(ImageError, match=missing.name):
            read_image(missing)


def test_truncated_png_is_an_error() -> None:
    whole = encoded(Image.fromarray(noise(40, 40)))
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image(whole[: len(whole) // 2])


@pytest.mark.parametrize("limit", [50, 90])
def test_images_above_pillows_limit_are_refused(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(noise(10, 12)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with (
        pytest.raises(ImageError, match="limit"),
        pytest.warns(Image.DecompressionBombWarning) if limit == 90 else _nothing(),
    ):
        read_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(data).shape == (3, 10, 12)


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (torch.zeros(4, 5, dtype=torch.uint8), r"\[4, 5\].*give \[3, H, W\]"),
        (torch.zeros(1, 4, 5), r"give \[3, H, W\]"),
        (torch.zeros(3, 0, 5), "no pixels"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 5), 1.5), "0..1"),
        (torch.full((3, 4, 5), -0.1), "0..1"),
        (torch.full((3, 4, 5), float("nan")), "0..1"),
        (np.zeros((4, 5, 4), dtype=np.uint8), r"\[4, 5, 4\]"),
        (np.zeros((3, 4, 5), dtype=np.int32), r"\[3, 4, 5\]"),
        (np.zeros((4, 5, 3), dtype=np.int32), "int32"),
        (np.full((4, 5, 3), 200.0), "^an array with values from 200 to 200.*0..1"),
        (np.zeros((2, 4, 5, 3), dtype=np.uint8), "channels last"),
        ("http://x.y/z.png", "^http://x.y/z.png is an address.* not fetched; download it"),
        (Path("https://x.y/z.png"), "^https://x.y/z.png is an address"),
        (None, "NoneType"),
        ([1, 2], "list"),
    ],
)
def test_other_forms_are_refused_with_what_to_give(source: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_image(source)  # type: ignore[arg-type]


class Lazy:
    """A data set as torch has them: a length, and items by number."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


def objects(items: list[Any]) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def column(items: list[Any]) -> Any:
    datasets, arrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    features = datasets.Features({"image": datasets.Image()})
    rows = [{"bytes": encoded(item), "path": None} for item in items]
    table = arrow.table({"image": rows}, schema=features.arrow_schema)
    return datasets.Dataset(table, datasets.DatasetInfo(features=features), fingerprint="own")["image"]


def series(items: list[Any]) -> Any:
    return pytest.importorskip("pandas").Series(items, index=range(5, 5 + len(items)))


@pytest.mark.parametrize("form", [deque, objects, Lazy, column, series, tuple, iter])
def test_images_come_in_any_form_that_has_an_order(form: Any):
    images = [Image.new("RGB", (5, 3 + number), "teal") for number in range(3)]
    found = listed(form(images))
    assert [image.size for image in found] == [image.size for image in images]
    assert listed(np.array(["a.png", "b.png"])) == ["a.png", "b.png"] == listed(deque(["a.png", "b.png"]))


def test_what_is_one_image_is_not_taken_apart(tmp_path: Path):
    with mmap.mmap(-1, 5) as mapped:
        arrays = [np.zeros((4, 5, 3)), np.zeros((4, 5)), np.zeros(3), torch.zeros(3, 4, 5), torch.zeros(3)]
        given = ["a.png", tmp_path, b"abc", bytearray(b"abc"), memoryview(b"abc"), {"bytes": b"abc"}]
        for one in [*given, mapped, *arrays]:
            (found,) = listed(one)
            assert found is one


@pytest.mark.parametrize("form", ["tensor", "array"])
def test_floats_that_rounding_left_outside_are_cut_and_others_told_exactly(form: str) -> None:
    def given(low: float, high: float) -> object:
        values = np.full((3, 4, 5), 0.25, dtype=np.float32)
        values[0, 0, :2] = low, high
        return torch.from_numpy(values) if form == "tensor" else values.transpose(1, 2, 0)

    seen = read_image(given(-5e-7, 1.0000005))  # type: ignore[arg-type]
    assert seen[0, 0].tolist() == [0, 1, 0.25, 0.25, 0.25] and seen[1:].eq(0.25).all()
    for low, high, told in ((0, 1.00001, "from 0 to 1.00001"), (-0.00001, 1, r"from -9\.99\d+e-06 to 1 ")):
        with pytest.raises(ImageError, match=told):
            read_image(given(low, high))  # type: ignore[arg-type]
