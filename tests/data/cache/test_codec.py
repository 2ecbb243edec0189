from __future__ import annotations

import struct
import zlib

import pytest
import torch

from tove_core.data.cache.codec import EXACTNESS, pack, row_bytes, row_checks, unpack
from tove_core.errors import DataError

NAMES = [f"{n}.png" for n in range(4)]


def feature(scale: float = 1.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(4, 6, 33, generator=draw) * scale


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2**-11), ("float8", 2**-4)])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 300.0])
def test_what_is_kept_comes_back_within_the_precision_of_its_dtype(dtype, error, scale):
    given = feature(scale)
    back = unpack(pack(given, dtype, "clip", NAMES), "cpu")
    assert back.dtype == torch.float32 and back.shape == given.shape
    # float8 is relative to each value down to a subnormal of the token's largest.
    floor = given.abs().amax(-1, keepdim=True) * 2**-17 if dtype == "float8" else torch.tensor(2.0**-25)
    assert ((back - given).abs() <= given.abs() * error + floor * (error > 0)).all()


@pytest.mark.parametrize("dtype", EXACTNESS)
def test_bytes_on_disk_are_as_told(dtype):
    packed = pack(feature(), dtype, "clip", NAMES)
    assert sum(tensor.nbytes for tensor in packed.values()) == 4 * (row_bytes((6, 33), dtype) - 32 - 4)


@pytest.mark.parametrize("dtype", EXACTNESS)
def test_a_checksum_is_the_crc32_of_values_and_scales_as_they_lie_in_the_file(dtype):
    packed = pack(feature().transpose(1, 2), dtype, "clip", NAMES)
    packed = {name: part.contiguous() for name, part in packed.items()}
    wanted = []
    for row in range(4):
        lying = [packed[name][row].view(torch.uint8).numpy().tobytes() for name in ("f", "scale") if name in packed]
        wanted.append(struct.pack("<I", zlib.crc32(b"".join(lying))))
    assert row_checks(packed) == wanted
    packed["f"][2].view(torch.uint8)[3, 1] ^= 1
    same = [found == right for found, right in zip(row_checks(packed), wanted, strict=True)]
    assert same == [True, True, False, True]


def test_float8_keeps_tokens_of_any_size_and_empty_ones():
    given = feature()
    given[0] *= 1e6
    given[1] *= 1e-6
    given[2] = 0
    back = unpack(pack(given, "float8", "clip", NAMES), "cpu")
    assert (back[2] == 0).all()
    for n in (0, 1, 3):
        assert (back[n] - given[n]).norm() / given[n].norm() < 0.04


def test_what_float16_cannot_hold_is_refused_with_the_expert_the_image_and_the_cure():
    given = feature()
    given[2, 1, 5] = -7e4
    with pytest.raises(DataError, match=r"'dinov2' reaches 7e\+04 at image 2.png.*--dtype dinov2=float32"):
        pack(given, "float16", "dinov2", NAMES)
    assert torch.equal(unpack(pack(given, "float32", "dinov2", NAMES), "cpu"), given)
    assert pack(given, "float8", "dinov2", NAMES)


@pytest.mark.parametrize("dtype", EXACTNESS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_kept(dtype, bad):
    given = feature()
    given[3, 0, 0] = bad
    with pytest.raises(DataError, match=r"'clip' of image 3.png is not finite"):
        pack(given, dtype, "clip", NAMES)
