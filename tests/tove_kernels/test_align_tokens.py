from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from tove_kernels import align_tokens


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def bilinear_weights(size, wanted):
    """Weights [wanted, size] of a triangle filter, widened where the axis shrinks, from the definition alone."""
    scale = size / wanted
    support = max(scale, 1.0)
    out = torch.zeros(wanted, size, dtype=torch.float64)
    for i in range(wanted):
        centre = (i + 0.5) * scale
        for j in range(size):
            out[i, j] = max(0.0, 1 - abs((j + 0.5 - centre) / support))
        out[i] /= out[i].sum()
    return out


def resampled(maps, size):
    rows, columns = (bilinear_weights(a, b) for a, b in zip(maps.shape[-2:], size, strict=True))
    return torch.einsum("ih,jw,bchw->bcij", rows, columns, maps)


def folded(maps, fold):
    """Space to depth by slicing; channels in the order channel, row, column."""
    batch, channels, height, width = maps.shape
    out = torch.zeros(batch, (height // fold) * (width // fold), channels * fold**2, dtype=maps.dtype)
    for i in range(height):
        for j in range(width):
            token = (i // fold) * (width // fold) + j // fold
            out[:, token, (i % fold) * fold + j % fold :: fold**2] = maps[:, :, i, j]
    return out


MAPS = [
    ((5, 5), (5, 5), 1),  # nothing to do
    ((9, 13), (3, 5), 1),  # both axes shrink, not by a whole factor
    ((3, 4), (7, 9), 1),  # both grow
    ((12, 3), (4, 7), 1),  # one of each
    ((28, 21), (4, 3), 4),  # folded
    ((6, 10), (7, 3), 2),
    ((1, 1), (3, 2), 1),
]


@pytest.mark.parametrize(("size", "grid", "fold"), MAPS)
def test_tokens_are_the_map_resampled_and_folded(size, grid, fold):
    maps = draw(2, 3, *size)
    got = align_tokens(maps, grid, fold=fold)
    want = folded(resampled(maps, (grid[0] * fold, grid[1] * fold)), fold)
    assert got.shape == (2, grid[0] * grid[1], 3 * fold**2)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("antialias", [True, False])
def test_it_agrees_with_interpolate(antialias):
    maps = draw(2, 3, 15, 22)
    grid = (4, 6) if antialias else (19, 23)
    want = F.interpolate(maps, grid, mode="bilinear", align_corners=False, antialias=antialias)
    torch.testing.assert_close(align_tokens(maps, grid), want.flatten(2).transpose(1, 2))


def test_position_norm_gives_each_position_mean_zero_and_power_one():
    maps = 5 * draw(2, 33, 6, 7) + 3
    tokens = align_tokens(maps, (6, 7), norm="position")
    torch.testing.assert_close(tokens.mean(-1), torch.zeros(2, 42, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(tokens.square().mean(-1), torch.ones(2, 42, dtype=torch.float64))
    want = F.layer_norm(maps.movedim(1, -1), (33,), eps=1e-6).flatten(1, 2)
    torch.testing.assert_close(tokens, want)


def test_fixed_norm_uses_the_given_statistics_per_channel():
    maps = draw(2, 3, 6, 7)
    mean, std = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.5, 2.0, 3.0])
    want = torch.stack([(maps[:, c] - float(mean[c])) / float(std[c]) for c in range(3)], 1)
    got = align_tokens(maps, (3, 5), norm="fixed", mean=mean, std=std)
    torch.testing.assert_close(got, align_tokens(want, (3, 5)))


@pytest.mark.parametrize(("size", "grid", "fold"), MAPS)
def test_constant_maps_stay_constant(size, grid, fold):
    maps = torch.tensor([2.5, -7.0], dtype=torch.float64)[None, :, None, None].expand(3, 2, *size)
    want = torch.tensor([2.5, -7.0], dtype=torch.float64).repeat_interleave(fold**2)
    torch.testing.assert_close(align_tokens(maps, grid, fold=fold), want.expand(3, grid[0] * grid[1], -1))


@pytest.mark.parametrize(("step", "distance"), [((0, 1), 1), ((1, 0), 5)])
@pytest.mark.parametrize("factor", [1, 3])
def test_a_peak_moved_by_one_cell_moves_by_one_token(step, distance, factor):
    def peak(row, column):
        maps = torch.zeros(1, 1, 4 * factor, 5 * factor)
        centre = factor // 2
        maps[0, 0, row * factor + centre, column * factor + centre] = 1.0
        return int(align_tokens(maps, (4, 5))[0, :, 0].argmax())

    assert peak(1, 2) == 1 * 5 + 2
    assert peak(1 + step[0], 2 + step[1]) == peak(1, 2) + distance


def test_folding_keeps_fine_detail_that_averaging_erases():
    board = torch.zeros(1, 1, 8, 8)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 1.0
    averaged = align_tokens(board, (4, 4))[0].reshape(4, 4)[1:3, 1:3]  # away from the border
    torch.testing.assert_close(averaged, torch.full((2, 2), 0.5))
    assert torch.equal(align_tokens(board, (4, 4), fold=2), torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 16, 4))


@pytest.mark.parametrize(
    ("given", "result"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_low_precision_is_computed_in_float32_and_any_result_type_may_be_asked_for(given, result):
    maps = draw(2, 33, 9, 13, dtype=given)
    got = align_tokens(maps, (3, 5), norm="position")
    assert got.dtype == result
    torch.testing.assert_close(got.double(), align_tokens(maps.double(), (3, 5), norm="position"), rtol=1e-5, atol=1e-5)
    assert align_tokens(maps, (3, 5), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_the_result_is_contiguous_whatever_the_layout_of_the_map():
    maps = draw(2, 3, 9, 13)
    got = align_tokens(maps.to(memory_format=torch.channels_last), (3, 5))
    assert got.is_contiguous()
    torch.testing.assert_close(got, align_tokens(maps, (3, 5)))


def test_a_request_for_a_gradient_is_refused():
    maps = draw(2, 3, 9, 13).requires_grad_()
    with pytest.raises(ValueError, match="experts are frozen"):
        align_tokens(maps, (3, 5))
    with torch.no_grad():
        assert not align_tokens(maps, (3, 5)).requires_grad


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 9, 13), {}, r"wanted \[B, C, h, w\]"),
        ((2, 3, 9, 13), {"norm": "fixed"}, "needs mean and std"),
        ((2, 3, 9, 13), {"norm": "fixed", "mean": torch.zeros(3)}, "needs mean and std"),
        ((2, 3, 9, 13), {"norm": "fixed", "mean": torch.zeros(1), "std": torch.ones(1)}, r"wanted \[3\] each"),
        ((2, 3, 9, 13), {"norm": "batch"}, "norm 'batch'"),
        ((2, 3, 9, 13), {"fold": 0}, "fold 0"),
        ((2, 3, 9, 13), {"fold": 2.0}, "fold 2.0; wanted .*, and a whole number, 1 or more"),
        ((2, 3, 9, 13), {"dtype": torch.int32}, "tokens of torch.int32 were asked for; wanted a floating-point type"),
        ((2, 3, 9, 13), {"mean": torch.zeros(3)}, "mean and std were given with norm 'none', which has none"),
        ((2, 3, 9, 13), {"norm": "position", "std": torch.ones(3)}, "with norm 'position', which has none"),
        (
            (2, 3, 9, 13),
            {"norm": "fixed", "mean": torch.zeros(3).long(), "std": torch.ones(3)},
            "mean and std are torch.int64 and torch.float32",
        ),
    ],
)
def test_bad_input_is_refused_with_what_was_wanted(shape, options, message):
    with pytest.raises(ValueError, match=message):
        align_tokens(torch.zeros(shape), (3, 5), **options)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_a_map_of_other_numbers_than_floats_is_refused(dtype):
    with pytest.raises(ValueError, match=f"the map is {dtype}; wanted a floating-point type"):
        align_tokens(torch.ones(2, 3, 9, 13, dtype=dtype), (3, 5))
