"""What inputs share of the resampling is, to the last bit, what each would get by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tove_core.hub import rasters
from tove_core.hub.view import VIEWS, Preprocessor, View, resample, resample_all
from tove_core.spec import Input

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BYTES = {"mean": (123.0, 116.0, 103.0), "std": (58.0, 57.0, 57.0), "range": (0.0, 255.0)}
SIGNED = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 1.0, 2.0), "range": (-1.0, 1.0)}
SHAPES = [(37, 53), (53, 37), (31, 31), (1, 47), (47, 1), (7, 211)]
SIZES = [(16, 16), (37, 53), (53, 53), (64, 31), (31, 64), (1, 3)]


def of(size: tuple[int, int], normalisation: dict[str, Any] | None = None, interpolation: str = "bicubic") -> Input:
    return Input(size=size, interpolation=interpolation, **(normalisation or {}))  # type: ignore[arg-type]


def plainly(image: Tensor, view: View, input: Input) -> Tensor:
    """Make the whole region in floats, resample it at once, normalise it: for one input, and nothing is shared."""
    low, high = input.range
    mean, std = torch.tensor(input.mean)[:, None, None], torch.tensor(input.std)[:, None, None]
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    height, width = pixels.shape[1:]
    if view == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[:, top : top + side, left : left + side]
    elif view == "pad":
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        canvas = torch.ones(3, side, side) * ((mean - low) / (high - low))
        canvas[:, top : top + height, left : left + width] = pixels
        pixels = canvas
    if pixels.shape[1:] != input.size:
        options: Any = {"size": input.size, "mode": input.interpolation, "antialias": True, "align_corners": False}
        pixels = F.interpolate(pixels[None], **options)[0].clamp(0, 1)
    return (pixels * (high - low) + low - mean) / std


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal to the last bit, so that zero and minus zero differ."""
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


class Resamplings(TorchFunctionMode):
    """Counts the calls of `F.interpolate`, which go on as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.interpolate:
            self.sizes.append(tuple(kwargs["size"]))
        return func(*args, **(kwargs or {}))


def count(image: Tensor, view: View, *inputs: Input) -> int:
    with Resamplings() as mode:
        resample_all(image, view, inputs)
    return len(mode.sizes)


def noise(height: int, width: int, kind: str = "uint8") -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    if kind == "float":
        return torch.rand(3, height, width, generator=generator)
    values = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).permute(2, 0, 1)
    return values if kind == "interleaved" else values.contiguous()


@pytest.mark.parametrize("strip", [1, 600, 1 << 20])
@pytest.mark.parametrize("view", VIEWS)
def test_everything_at_once_is_what_each_gets_alone_to_the_last_bit(
    view: View, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasters, "_STRIP", strip)
    normalisations = (None, OPENAI, IMAGENET, BYTES, SIGNED)
    inputs = [of(*one) for one in product(SIZES, normalisations, ("bicubic", "bilinear"))]
    for shape, kind in product(SHAPES, ("uint8", "float", "interleaved")):
        image = noise(*shape, kind)
        before = image.clone()
        found = resample_all(image, view, inputs)
        assert list(found) == inputs and torch.equal(image, before)
        for input in inputs:
            wanted = plainly(image, view, input)
            assert found[input].shape == wanted.shape and equal(found[input], wanted), (shape, kind, input)


@pytest.mark.parametrize("view", VIEWS)
def test_a_large_image_of_many_strips_is_resampled_to_the_same_bits(view: View) -> None:
    image = noise(1203, 1601)  # above one strip for up to five threads
    for input in (of((336, 336), OPENAI), of((224, 448), IMAGENET, "bilinear")):
        assert equal(resample(image, view, input), plainly(image, view, input))


@pytest.mark.parametrize("view", ["squash", "crop"])
def test_inputs_that_differ_in_normalisation_alone_are_resampled_once(view: View) -> None:
    image, one = noise(37, 53), of((16, 16), OPENAI)
    alone = count(image, view, one)
    assert alone > 0
    assert count(image, view, one, of((16, 16), IMAGENET), of((16, 16), BYTES), of((16, 16))) == alone
    assert count(image, view, one, of((16, 16), OPENAI, "bilinear")) == 2 * alone
    assert count(image, view, one, of((20, 20), OPENAI)) == 2 * alone


def test_padding_is_shared_where_it_has_the_same_colour_and_only_there() -> None:
    one, other = of((16, 16), OPENAI), of((16, 16), IMAGENET)
    stretched = of((16, 16), {"mean": OPENAI["mean"], "std": (0.5, 1.0, 2.0)})
    for shape in ((37, 53), (53, 37)):
        alone = count(noise(*shape), "pad", one)
        assert count(noise(*shape), "pad", one, stretched) == alone
        assert count(noise(*shape), "pad", one, other) > alone
    assert count(noise(31, 31), "pad", one, other) == count(noise(31, 31), "pad", one)  # nothing is padded


def test_the_rows_of_a_wide_image_are_resampled_once_whatever_is_above_and_below_them() -> None:
    with Resamplings() as mode:
        resample_all(noise(37, 53), "pad", [of((16, 16), OPENAI), of((16, 16), IMAGENET)])
    assert mode.sizes.count((37, 16)) == 1 and mode.sizes.count((16, 16)) == 2


def test_a_preprocessor_resamples_an_image_once_for_keys_of_one_size() -> None:
    image = noise(40, 61)
    inputs = {"clip": of((16, 16), OPENAI), "dinov2": of((16, 16), IMAGENET), "again": of((16, 16), OPENAI)}
    with Resamplings() as mode:
        batches = Preprocessor(inputs)([image])
    assert len(mode.sizes) == count(image, "squash", inputs["clip"])
    assert all(equal(batches[key][0], plainly(image, "squash", input)) for key, input in inputs.items())


def test_results_share_no_memory_with_the_image_or_with_each_other() -> None:
    image = noise(16, 16, "float")
    found = resample_all(image, "squash", [of((16, 16)), of((16, 16), OPENAI)])
    places = [values.untyped_storage().data_ptr() for values in (image, *found.values())]
    assert len(set(places)) == 3
