from __future__ import annotations

import os

import pytest
import torch
from torch import library
from torch.nn import functional as F
from tove_kernels import align_tokens
from tove_kernels.align.axis import axis_ends, axis_taps

CPU = torch.device("cpu")
DEVICE = os.environ.get("TOVE_TEST_DEVICE", "cpu")
# Relative RMSE against float64; Triton's interpreter cuts float32 to bfloat16 where hardware rounds.
LIMITS = {
    torch.float64: 1e-12,
    torch.float32: 1e-6,
    torch.float16: 5e-4,
    torch.bfloat16: 6e-3 if DEVICE == "cpu" else 2.5e-3,
}
LAYOUTS = ("columns", "channels", "cropped", "transposed", "repeated")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE)


def laid_out(maps, layout):
    """The same values in other memory: NCHW, NHWC, a window of larger NHWC, [B, C, w, h], every second channel."""
    if layout == "channels":
        return maps.contiguous(memory_format=torch.channels_last)
    if layout == "cropped":
        return F.pad(maps, (1, 2, 2, 1), value=float("nan")).movedim(1, -1).contiguous().movedim(-1, 1)[..., 2:-1, 1:-2]
    if layout == "transposed":
        return maps.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "repeated":
        return torch.stack([maps, maps.new_full((), float("nan")).expand_as(maps)], 2).flatten(1, 2)[:, ::2]
    return maps.contiguous()


def interpolated(maps, size):
    """F.interpolate in float64, antialiased along the axes that shrink and only there."""
    rows, columns = size
    height, width = maps.shape[-2:]
    maps = F.interpolate(maps, (rows, width), mode="bilinear", align_corners=False, antialias=height > rows)
    return F.interpolate(maps, (rows, columns), mode="bilinear", align_corners=False, antialias=width > columns)


def expected(maps, grid, norm="none", mean=None, std=None, fold=1):
    values = maps.double()
    if norm == "position":
        values = F.layer_norm(values.movedim(1, -1), values.shape[1:2], eps=1e-6).movedim(-1, 1)
    elif norm == "fixed":
        values = (values - mean.double()[:, None, None]) / std.double()[:, None, None]
    values = interpolated(values, (grid[0] * fold, grid[1] * fold))
    batch, channels = values.shape[:2]
    cells = values.reshape(batch, channels, grid[0], fold, grid[1], fold)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid[0] * grid[1], channels * fold**2)


def off_by(got, want):
    return float((got.double() - want).norm() / want.norm())


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fresh memory holds NaN: an element that is never written cannot pass for a right one."""
    real_new, real_like = torch.Tensor.new_empty, torch.empty_like

    def fill(tensor):
        return tensor.fill_(float("nan")) if tensor.is_floating_point() and tensor.device.type == DEVICE else tensor

    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: fill(real_new(self, *a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: fill(real_like(*a, **k)))


CASES = [
    # channels, size, grid, fold, norm, layout
    (1, (1, 1), (3, 2), 1, "none", "columns"),
    (1, (9, 13), (3, 5), 4, "fixed", "columns"),
    (3, (5, 7), (5, 7), 1, "none", "cropped"),
    (3, (12, 3), (4, 7), 2, "fixed", "transposed"),
    (3, (6, 10), (2, 3), 3, "none", "channels"),  # nine cells do not fill sixteen
    (17, (9, 13), (3, 5), 1, "position", "columns"),
    (17, (3, 4), (7, 9), 1, "fixed", "channels"),
    (33, (5, 7), (5, 7), 1, "position", "channels"),
    (33, (5, 7), (5, 7), 1, "position", "columns"),
    (33, (13, 9), (4, 3), 1, "position", "cropped"),
    (33, (3, 12), (7, 4), 2, "position", "repeated"),
    (33, (10, 6), (5, 3), 2, "position", "transposed"),  # kept, but folded
    (17, (1, 1), (1, 1), 1, "none", "repeated"),
    (768, (4, 5), (4, 5), 1, "position", "cropped"),
    (768, (4, 5), (6, 7), 1, "position", "channels"),
    (1152, (4, 3), (4, 3), 1, "position", "channels"),
    # Fewer rows, channels dense: in strips of four rows of the grid
    (17, (13, 4), (9, 7), 1, "none", "channels"),  # more columns
    (33, (19, 5), (11, 5), 1, "fixed", "cropped"),  # as many columns, and a last strip of three rows
    (129, (7, 9), (5, 3), 1, "position", "channels"),
    (3, (31, 31), (1, 1), 1, "fixed", "channels"),
]


@pytest.mark.parametrize(("channels", "size", "grid", "fold", "norm", "layout"), CASES)
@pytest.mark.parametrize("dtype", list(LIMITS))
def test_tokens_agree_with_interpolate_in_float64(channels, size, grid, fold, norm, layout, dtype):
    exact = 2 * draw(2, channels, *size) + 1
    maps = laid_out(exact.to(dtype), layout)
    fixed = {"mean": draw(channels, seed=1), "std": draw(channels, seed=2).abs() + 0.5} if norm == "fixed" else {}
    given = {name: value.to(dtype if dtype == torch.float64 else torch.float32) for name, value in fixed.items()}
    got = align_tokens(maps, grid, norm=norm, fold=fold, dtype=dtype, **given)
    assert got.dtype == dtype and got.is_contiguous()
    assert off_by(got, expected(maps, grid, norm, fold=fold, **given)) < LIMITS[dtype]


@pytest.mark.parametrize("programs", [1, 10**6])
def test_strips_of_any_length_give_the_same_bits(programs, monkeypatch):
    maps = laid_out(draw(3, 33, 14, 9).float(), "channels")
    got = align_tokens(maps, (9, 5), norm="position")
    monkeypatch.setattr("tove_kernels.align.triton_launch.PROGRAMS", programs)
    assert torch.equal(align_tokens(maps, (9, 5), norm="position"), got)


def test_what_lies_in_other_cells_does_not_reach_a_token():
    maps = laid_out(draw(1, 17, 27, 27).float(), "channels")
    want = align_tokens(maps, (15, 15)).unflatten(1, (15, 15))
    maps[..., 13:, :] = maps[..., 13:] = float("nan")
    got = align_tokens(maps, (15, 15)).unflatten(1, (15, 15))
    # Token 6 ends with cell 12 (6.5 * 1.8 + 1.8 = 13.5 reaches no further than the centre of cell 13, with weight 0).
    assert torch.equal(got[:, :7, :7], want[:, :7, :7]) and got[:, 7:].isnan().all() and got[:, :, 7:].isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", ["none", "position"])
def test_every_layout_gives_the_same_tokens(layout, norm):
    maps = draw(2, 33, 9, 13).float()
    got = align_tokens(laid_out(maps, layout), (4, 15), norm=norm)
    torch.testing.assert_close(got, expected(maps, (4, 15), norm).float(), rtol=2e-6, atol=2e-6)


def test_low_precision_maps_give_float32_tokens_that_are_rounded_once():
    maps = draw(2, 33, 9, 13).bfloat16()
    got = align_tokens(maps, (4, 5), norm="position")
    assert got.dtype == torch.float32
    assert off_by(got, expected(maps, (4, 5), "position")) < 1e-6


@pytest.mark.parametrize("layout", ["columns", "channels"])
@pytest.mark.parametrize(("size", "grid"), [((5, 7), (5, 7)), ((5, 7), (8, 3))])
def test_a_large_mean_costs_no_digits(layout, size, grid):
    maps = laid_out((draw(2, 100, *size) + 1000).float(), layout)
    # The input's own rounding to float32 is in both; what is left is the statistics' error. A GPU divides by C with an
    # approximate reciprocal: one last place of 1/100 is 1.2e-4 of a deviation here, where the mean is 1000 of them.
    assert off_by(align_tokens(maps, grid, norm="position"), expected(maps, grid, "position")) < 3e-4
    mean, std = torch.full((100,), 1000.0, device=DEVICE), torch.ones(100, device=DEVICE)
    got = align_tokens(maps, grid, norm="fixed", mean=mean, std=std)
    assert off_by(got, expected(maps, grid, "fixed", mean, std)) < 1e-6


def test_more_channels_than_a_program_holds_are_normalised_over_all_of_them():
    maps = laid_out(
        draw(1, 9001, 1, 1) * torch.linspace(0.1, 9, 9001, device=DEVICE)[:, None, None], "channels"
    ).float()
    torch.testing.assert_close(
        align_tokens(maps, (1, 1), norm="position"), expected(maps, (1, 1), "position").float(), rtol=2e-6, atol=2e-6
    )


@pytest.mark.parametrize(("channels", "size", "grid", "fold", "norm", "layout"), [c for c in CASES if c[4] == "none"])
def test_constant_maps_stay_constant(channels, size, grid, fold, norm, layout):
    maps = laid_out(torch.full((2, channels, *size), 2.5, device=DEVICE), layout)
    got = align_tokens(maps, grid, fold=fold)
    torch.testing.assert_close(got, torch.full_like(got, 2.5), rtol=3e-7, atol=0)


def test_what_lies_outside_the_map_is_never_read():
    # `cropped` has NaN on all four sides and `repeated` between the channels.
    for layout in ("cropped", "repeated"):
        assert align_tokens(laid_out(draw(1, 17, 9, 5), layout), (3, 11), norm="position").isfinite().all()


def test_no_image_gives_no_tokens():
    assert align_tokens(torch.zeros(0, 3, 5, 7, device=DEVICE), (3, 5), fold=2).shape == (0, 15, 12)


@pytest.mark.parametrize(("size", "wanted"), [(1, 4), (4, 1), (5, 5), (7, 20), (20, 7), (64, 24), (37, 24), (3, 2)])
def test_taps_are_those_of_interpolate(size, wanted):
    starts, weights = axis_taps(size, wanted, torch.float64, CPU)
    dense = torch.zeros(wanted, size + weights.shape[1], dtype=torch.float64)
    dense.scatter_(1, starts[:, None].long() + torch.arange(weights.shape[1]), weights)
    assert not dense[:, size:].any()
    each = torch.eye(size, dtype=torch.float64)[:, None, None, :]
    want = F.interpolate(each, (1, wanted), mode="bilinear", align_corners=False, antialias=size > wanted)[:, 0, 0]
    torch.testing.assert_close(dense[:, :size].T, want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("size", "wanted"), [(4, 1), (27, 15), (64, 24), (37, 24), (3, 2), (101, 100)])
def test_a_cell_counts_for_at_most_two_outputs_that_follow_each_other(size, wanted):
    starts, weights = axis_taps(size, wanted, torch.float64, CPU)
    ends = axis_ends(size, wanted, CPU)
    assert starts[0] == 0 and ends[-1] == size
    assert (ends.diff() > 0).all() and (starts[1:] <= ends[:-1]).all() and (starts[2:] >= ends[:-2]).all()
    for row, count in zip(weights, ends - starts, strict=True):
        assert (row[:count] > 0).all() and not row[count:].any()


def test_the_operator_passes_pytorchs_own_checks():
    maps = laid_out(draw(2, 17, 5, 7).float(), "channels")
    mean, std = draw(17, seed=1).float(), draw(17, seed=2).float().abs() + 1
    for norm, statistics, dtype in (("position", (None, None), torch.float16), ("fixed", (mean, std), torch.float32)):
        library.opcheck(torch.ops.tove.align_tokens, (maps, 3, 4, norm, *statistics, 2, dtype))


def test_it_is_one_node_of_a_compiled_and_of_an_exported_graph():
    class Expert(torch.nn.Module):
        def forward(self, maps):
            return align_tokens(maps * 2, (3, 4), norm="position", fold=2, dtype=torch.float16) + 1

    maps = draw(2, 17, 5, 7).float()
    want = Expert()(maps)
    compiled = torch.compile(Expert(), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(maps), want)
        exported = torch.export.export(Expert(), (maps,))
    assert torch.equal(exported.module()(maps), want)
    calls = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.tove.align_tokens.default) == 1


def test_a_request_for_a_gradient_is_refused():
    maps = draw(2, 3, 9, 13).requires_grad_()
    with pytest.raises(ValueError, match="experts are frozen"):
        align_tokens(maps, (3, 5))
    with pytest.raises(ValueError, match="experts are frozen"):
        align_tokens(maps.detach(), (3, 5), norm="fixed", mean=torch.zeros(3), std=torch.ones(3).requires_grad_())
    with torch.no_grad():
        assert not align_tokens(maps, (3, 5)).requires_grad


@pytest.mark.parametrize(
    ("shape", "grid", "options", "message"),
    [
        ((3, 9, 13), (3, 5), {}, r"shape \(3, 9, 13\); wanted \[B, C, h, w\]"),
        ((2, 0, 9, 13), (3, 5), {}, "at least one channel"),
        ((2, 3, 9, 13), (0, 5), {}, r"the grid is \(0, 5\)"),
        ((2, 3, 9, 13), (3, 5), {"norm": "fixed", "mean": torch.zeros(3)}, "needs mean and std"),
        (
            (2, 3, 9, 13),
            (3, 5),
            {"norm": "fixed", "mean": torch.zeros(3), "std": torch.ones(3, device="meta")},
            "on cpu and meta, the map on cpu",
        ),
        ((2, 3, 9, 13), (3, 5), {"norm": "batch"}, "norm 'batch'"),
        ((2, 3, 9, 13), (3, 5), {"fold": 0}, "fold 0"),
    ],
)
def test_bad_input_is_refused_with_what_was_wanted(shape, grid, options, message):
    with pytest.raises(ValueError, match=message):
        align_tokens(torch.zeros(shape), grid, **options)
