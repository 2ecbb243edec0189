from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import ToveModel
from tove_core.errors import ConfigError
from tove_core.hub import rasters

EXPERTS = ("toy-fine", "toy-wide", "toy-whole:large")


def built(toy: Any, **placement: Any) -> Any:
    return toy.build([{"name": name, **placement} for name in EXPERTS], decoder=None, weights="random")


def features(toy: Any, model: Any) -> dict[str, torch.Tensor]:
    return model.encode(toy.pictures(5))


@pytest.mark.parametrize("placement", [{"offload": True}, {"stream": True}, {"compile": "eager"}, {"device": "cpu"}])
def test_placement_changes_no_bit_of_what_a_model_sees(toy: Any, placement: dict[str, Any]) -> None:
    plain, placed = features(toy, built(toy)), features(toy, built(toy, **placement))
    assert list(plain) == list(placed) == ["clip", *EXPERTS]
    assert all(torch.equal(plain[key], placed[key]) for key in plain)


@pytest.mark.parametrize("size", [1, 2, "auto"])
def test_micro_batches_change_nothing_but_rounding(toy: Any, size: Any) -> None:
    plain, placed = features(toy, built(toy)), features(toy, built(toy, micro_batch=size))
    for key, feature in plain.items():
        torch.testing.assert_close(placed[key], feature, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("placement", [{"micro_batch": 2}, {"offload": True, "stream": True}])
def test_regions_and_their_words_pass_through_every_placement(toy: Any, placement: dict[str, Any]) -> None:
    def seen(**more: Any) -> torch.Tensor:
        model = toy.build([{"name": "toy-names", **more}], decoder=None, clip=toy.reading_clip)
        return model.encode(toy.pictures(5))["toy-names"]

    plain = seen()
    assert plain.abs().sum() > 0 and torch.equal(seen(**placement), plain)


def test_experts_with_equal_inputs_share_one_resampled_view(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[int, int]] = []
    finished = rasters._along_columns
    monkeypatch.setattr(
        rasters,
        "_along_columns",
        lambda canvas, rows, raster: counted.append(raster.size) or finished(canvas, rows, raster),
    )
    pair = toy.build(["toy-whole:small", "toy-whole:large", "toy-fine"], decoder=None, weights="random")
    pair.encode(toy.pictures(4))
    assert sorted(counted) == [(24, 24)] * 4 + [(24, 36)] * 4 + [(40, 40)] * 4
    seen: list[int] = []
    for key in ("toy-whole:small", "toy-whole:large"):
        pair.experts[key].module.register_forward_pre_hook(lambda _, given: seen.append(given[0].data_ptr()))
    pair.encode(toy.pictures(2))
    assert len(seen) == 2 and seen[0] == seen[1]


def test_placement_is_saved_with_the_model_and_used_when_it_is_loaded(toy: Any, tmp_path: Path) -> None:
    model = built(toy, offload=True, micro_batch=2, dtype="bfloat16")
    for full in (False, True):
        again = ToveModel.from_pretrained(model.save_pretrained(tmp_path / f"full-{full}", full=full))
        assert again.config.experts == model.config.experts
        found, wanted = features(toy, again), features(toy, model)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
        assert all(again.experts[key].placement.offload for key in EXPERTS)


def test_a_device_that_is_missing_is_told_before_any_weights_are_sought(toy: Any, tmp_path: Path) -> None:
    asked = {"name": "toy-wide", "device": "cuda:63"}
    with pytest.raises(ConfigError, match=r"'toy-wide': device 'cuda:63' cannot be used here"):
        toy.build(["toy-fine", asked], decoder=None, weights=tmp_path / "nothing-here", clip="local-dir:nowhere")


def test_a_placed_expert_can_be_switched_off_and_on(toy: Any) -> None:
    model = built(toy, offload=True, micro_batch=1)
    before = model.tokens(toy.pictures(3))
    model.detach("toy-wide")
    assert "toy-wide" not in features(toy, model)
    model.attach("toy-wide")
    assert torch.equal(model.tokens(toy.pictures(3)), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("placement", [{"offload": True}, {"stream": True}, {"device": "cpu"}])
def test_on_a_gpu_placed_experts_give_what_resident_ones_give(toy: Any, placement: dict[str, Any]) -> None:
    def seen(**more: Any) -> dict[str, torch.Tensor]:
        experts = [{"name": name, **more} for name in EXPERTS]
        return features(toy, toy.build(experts, decoder=None, weights="random", device="cuda"))

    plain, placed = seen(), seen(**placement)
    for key, feature in plain.items():
        assert placed[key].device == feature.device
        close = {"rtol": 1e-2, "atol": 1e-2} if "device" in placement else {"rtol": 0.0, "atol": 0.0}
        torch.testing.assert_close(placed[key], feature, **close)
