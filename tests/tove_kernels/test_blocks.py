from __future__ import annotations

import pytest
from tove_kernels import blocks
from tove_kernels.blocks import backward_blocks, columns, forward_blocks, row_block, span


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(blocks, "interpreting", lambda *_: False)


def power_of_two(number):
    return number > 0 and number & (number - 1) == 0


@pytest.mark.parametrize(("width", "wanted"), [(768, 256), (1024, 1024), (1152, 128), (1408, 128), (512, 512)])
def test_widths_of_vision_transformers_leave_no_lane_idle(width, wanted):
    assert columns(width) == wanted and width % wanted == 0


@pytest.mark.parametrize("width", [*range(1, 300), 1000, 1001, 1409, 5000])
def test_any_width_is_covered_by_powers_of_two_without_much_waste(width):
    wide = columns(width)
    padded = -(-width // wide) * wide
    assert power_of_two(wide) and 16 <= wide <= 1024
    assert padded < 2 * max(width, 16)
    if width > 300:
        assert padded <= 1.1 * width


@pytest.mark.parametrize("width", [1, 17, 197, 768, 1152, 1408, 5000])
def test_blocks_are_powers_of_two_of_bounded_size(width):
    for make, most in ((forward_blocks, 4096), (backward_blocks, 1024)):
        made = make(width, 10**6)
        assert power_of_two(made.rows) and power_of_two(made.columns) and columns(width) % made.columns == 0
        assert made.rows * made.columns <= most
    assert forward_blocks(width, 10**6).columns == columns(width)
    assert backward_blocks(width, 10**6).columns == min(columns(width), 256), "a row of it lies within one warp"
    assert power_of_two(row_block(10**6))


@pytest.mark.parametrize("rows", [1, 63, 577, 36928, 10**6])
@pytest.mark.parametrize("across", [1, 4, 11, 5000])
def test_spans_cover_all_rows_with_about_as_many_programs_as_wanted(rows, across):
    made = backward_blocks(1024, rows)
    each = span(rows, made, across)
    spans = -(-rows // each)
    assert each % made.rows == 0 and each * spans >= rows > each * (spans - 1)
    assert spans <= max(1, blocks.PROGRAMS // across)
