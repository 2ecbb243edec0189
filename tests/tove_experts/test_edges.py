from __future__ import annotations

import sys
from math import cos, pi, sin
from typing import Any

import numpy as np
import pytest
import torch

from tove_core.errors import PluginError
from tove_core.hub.load import load_expert
from tove_core.spec import Grid
from tove_experts.adapters.edges import GREY
from tove_experts.edges import EDGES


def expert(variant: str | None = None) -> Any:
    return load_expert(EDGES.variant(variant), name="edges")[0]


def images(height: int = 31, width: int = 45) -> torch.Tensor:
    spec = EDGES.variant()
    assert spec.input.dynamic
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(2))


def test_nothing_is_downloaded_and_nothing_is_trained() -> None:
    module, digest = load_expert(EDGES, name="edges")
    assert digest is None and list(module.parameters()) == []


def test_a_ramp_has_its_slope_as_strength_and_twice_its_angle_as_direction() -> None:
    for degrees in (0, 30, 45, 90, 135, 200):
        angle = degrees * pi / 180
        y, x = torch.meshgrid(torch.arange(24.0), torch.arange(37.0), indexing="ij")
        luma = 0.5 + 0.004 * (x * cos(angle) + y * sin(angle))
        found = expert()(luma.expand(1, 3, -1, -1))["edges"][0, :, 5:-5, 5:-5]
        wanted = torch.tensor([1.0, cos(2 * angle), sin(2 * angle)])[:, None, None] * 0.004
        torch.testing.assert_close(found, wanted.expand_as(found), rtol=1e-3, atol=1e-6)


def test_strength_is_that_of_an_independent_reference_in_float64() -> None:
    pixels = images()
    luma = np.pad((pixels.double().numpy() * np.array(GREY)[:, None, None]).sum(1), ((0, 0), (1, 1), (1, 1)), "edge")
    x = luma[:, :, 2:] - luma[:, :, :-2]
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 8
    y = luma[:, 2:] - luma[:, :-2]
    y = (y[:, :, :-2] + 2 * y[:, :, 1:-1] + y[:, :, 2:]) / 8
    angle = np.arctan2(y, x)
    length = np.hypot(x, y)
    wanted = np.stack([length, length * np.cos(2 * angle), length * np.sin(2 * angle)], 1)
    found = expert()(pixels)["edges"]
    torch.testing.assert_close(found.double(), torch.from_numpy(wanted), rtol=1e-4, atol=1e-6)


def test_an_even_image_has_no_edges() -> None:
    assert not expert()(torch.full((1, 3, 20, 33), 0.3))["edges"].abs().gt(1e-6).any()


def test_canny_is_kornias_and_follows_a_contour() -> None:
    kornia = pytest.importorskip("kornia")
    pixels = torch.zeros(1, 3, 40, 56)
    pixels[..., 11:29, 20:43] = 1
    given = expert("canny")(pixels)["edges"]
    gradient, edges = kornia.filters.canny(pixels, low_threshold=0.1, high_threshold=0.2)
    assert torch.equal(given, torch.cat([gradient, edges], 1))
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    rows, columns = edges[0, 0].nonzero().unbind(1)
    near_rows = ((rows - 11).abs() <= 2) | ((rows - 28).abs() <= 2)
    near_columns = ((columns - 20).abs() <= 2) | ((columns - 42).abs() <= 2)
    assert (near_rows | near_columns).all() and len(rows) > 60


def test_without_kornia_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.filters", None)
    with pytest.raises(PluginError, match=r"edges:canny needs kornia; run pip install 'tove-core\[classical\]'"):
        expert("canny")


@pytest.mark.parametrize("variant", EDGES.variants)
def test_outputs_are_as_declared(variant: str) -> None:
    if variant == "canny":
        pytest.importorskip("kornia")
    grid = EDGES.variant(variant).outputs["edges"]
    assert isinstance(grid, Grid)
    assert expert(variant)(images(30, 44))["edges"].shape == (2, grid.channels, 30, 44)


def test_edges_enhance_tokens_in_a_model(toy: Any) -> None:
    model = toy.build(["edges", "toy-fine"], decoder=None)
    features = model.encode(toy.pictures(2))
    assert features["edges"].shape == (2, 25, 3 * 16)
    assert features["edges"].isfinite().all() and features["edges"].std() > 0
