from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tove_core import RegionBatch
from tove_core.errors import ContractError
from tove_core.hub.expert import FrozenExpert
from tove_core.spec import ExpertSpec, Input, Regions

MakeSpec = Callable[..., ExpertSpec]
NAN, INF = float("nan"), float("inf")


class Gives(nn.Module):
    """Returns what it was told, whatever it sees."""

    def __init__(self, regions: object) -> None:
        super().__init__()
        self.regions = regions

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        return {"found": self.regions}


@pytest.fixture
def run(make_spec: MakeSpec) -> Callable[..., RegionBatch]:
    def call(regions: object, batch: int = 2, **promised: Any) -> RegionBatch:
        spec = make_spec(outputs={"found": Regions(limit=3, **promised)}, input=Input(size=(8, 12)))
        return FrozenExpert(Gives(regions), spec, "mine")(torch.zeros(batch, 3, 8, 12))["found"]  # type: ignore[return-value]

    return call


def labelled(**changed: Any) -> RegionBatch:
    boxes = torch.tensor([[[0.0, 0.25, 0.5, 1.0], [0.1, 0.1, 0.1, 0.2]], [[0.5, 0.5, 0.75, 0.75], [NAN, 2, -1, 0]]])
    given = {"scores": torch.tensor([[0.5, 1.0], [0.0, NAN]]), "valid": torch.tensor([[True, True], [True, False]])}
    given |= {"text": [["cat", ""], ["漢字", "never"]]}
    return replace(RegionBatch(**({"boxes": boxes} | given)), **changed)


def featured(**changed: Any) -> RegionBatch:
    plain = labelled(text=None, features=torch.ones(2, 2, 5))
    return replace(plain, **changed)


def with_box(*box: float) -> RegionBatch:
    boxes = labelled().boxes.clone()
    boxes[0, 1] = torch.tensor(box)
    return labelled(boxes=boxes)


def test_regions_come_back_with_unused_slots_emptied(run: Callable[..., RegionBatch]) -> None:
    got = run(labelled(), text=True)
    assert torch.equal(got.boxes[0], labelled().boxes[0]) and torch.equal(got.boxes[1, 1], torch.zeros(4))
    assert torch.equal(got.scores, torch.tensor([[0.5, 1.0], [0.0, 0.0]]))
    assert got.text == [["cat", ""], ["漢字", ""]]
    assert got.valid.tolist() == [[True, True], [True, False]] and got.features is None and got.masks is None


def test_numbers_of_any_kind_become_float32(run: Callable[..., RegionBatch]) -> None:
    given = featured()
    low = replace(
        given,
        boxes=given.boxes.to(torch.bfloat16),
        scores=given.scores.double(),
        features=torch.full((2, 2, 5), 3),
        masks=torch.ones(2, 2, 3, 4, dtype=torch.bool),
    )
    got = run(low, channels=5)
    assert got.features is not None and got.masks is not None
    assert {t.dtype for t in (got.boxes, got.scores, got.features, got.masks)} == {torch.float32}
    assert torch.equal(got.features[:, 0], torch.full((2, 5), 3.0)) and got.features[1, 1].abs().sum() == 0
    assert got.masks[1, 1].abs().sum() == 0 and got.masks[0].min() == 1


def test_no_regions_at_all_are_fine(run: Callable[..., RegionBatch]) -> None:
    none = RegionBatch(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), text=[[], []])
    assert run(none, text=True).boxes.shape == (2, 0, 4)
    unnamed = replace(none, text=None)
    assert run(unnamed).scores.shape == (2, 0)


def test_what_an_expert_gives_from_inference_mode_can_be_learned_from(run: Callable[..., RegionBatch]) -> None:
    with torch.inference_mode():
        given = labelled(text=None, features=torch.ones(2, 2, 5), valid=torch.ones(2, 2, dtype=torch.bool))
        given = replace(given, boxes=given.boxes.nan_to_num().clamp(0, 1).sort(dim=-1).values, scores=torch.ones(2, 2))
    got = run(given, channels=5)
    layer = nn.Linear(5, 2)
    layer(got.features).sum().backward()
    assert layer.weight.grad is not None and not got.boxes.is_inference() and not got.valid.is_inference()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(2, 2, 4), "is Tensor; the spec promises regions, return a RegionBatch"),
        (None, "is NoneType"),
        (labelled(boxes=[0.0]), "boxes is list; give a tensor"),
        (labelled(valid=torch.ones(2, 2)), "valid is torch.float32; give booleans"),
        (labelled(scores=torch.ones(2, 2) * 1j), "scores is torch.complex64; give real numbers"),
        (labelled(boxes=torch.zeros(2, 4, 4)), "holds 4 regions; the spec promises 3 at most"),
        (labelled(boxes=torch.zeros(2, 2, 5)), r"boxes has shape \[2, 2, 5\].*\[2, 2, 4\]"),
        (labelled(boxes=torch.zeros(2)), r"boxes has shape \[2\].*\[2, 0, 4\]"),
        (labelled(boxes=torch.zeros(1, 2, 4)), r"boxes has shape \[1, 2, 4\].*\[2, 2, 4\]"),
        (labelled(scores=torch.zeros(2, 3)), r"scores has shape \[2, 3\].*\[2, 2\]"),
        (labelled(valid=torch.ones(2, dtype=torch.bool)), r"valid has shape \[2\]"),
        (labelled(masks=torch.zeros(2, 2, 5)), r"masks has shape \[2, 2, 5\].*\[2, 2, any, any\]"),
        (labelled(masks=torch.zeros(2, 2, 0, 5)), "masks has shape"),
        (labelled(text=None), "holds no text; the spec promises text"),
        (labelled(features=torch.zeros(2, 2, 7)), r"features has shape \[2, 2, 7\].*\[2, 2, 0\]"),
        (labelled(text="cat"), "text is str; give 2 lists of 2 strings"),
        (labelled(text=[["a", "b"]]), "text is 1 lists; give 2 lists of 2 strings"),
        (labelled(text=[["a", "b"], ["c"]]), "text is 2 lists; give 2 lists of 2 strings"),
        (labelled(text=["ab", "cd"]), "give 2 lists of 2 strings"),
        (labelled(text=[["a", 3], ["c", "d"]]), "text holds int; give strings"),
        (labelled(text=[["a", None], ["c", "d"]]), "text holds NoneType; give strings"),
        (with_box(0, 0, 1.01, 1), "a valid box is not finite or leaves 0..1"),
        (with_box(-0.1, 0, 1, 1), "leaves 0..1"),
        (with_box(0, NAN, 1, 1), "not finite"),
        (with_box(0, 0, INF, 1), "not finite"),
        (with_box(0.5, 0, 0.4, 1), "ends before it begins"),
        (with_box(0, 0.5, 1, 0.4), "ends before it begins"),
        (labelled(scores=torch.tensor([[0.5, 1.5], [0, 0]])), "a valid score is not in 0..1"),
        (labelled(scores=torch.tensor([[0.5, NAN], [0, 0]])), "a valid score is not in 0..1"),
        (labelled(masks=torch.full((2, 2, 3, 3), 1.5)), "a valid mask is not in 0..1"),
    ],
)
def test_regions_that_break_the_contract_are_named(run: Callable[..., RegionBatch], given: object, words: str) -> None:
    with pytest.raises(ContractError, match=rf"^expert 'mine': output 'found'.*{words}"):
        run(given, text=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (featured(features=None), "holds no features; the spec promises 5 channels"),
        (featured(features=torch.ones(2, 2, 4)), r"features has shape \[2, 2, 4\].*\[2, 2, 5\]"),
        (featured(features=torch.full((2, 2, 5), INF)), "features of a valid region are not finite"),
        (labelled(features=torch.ones(2, 2, 5)), "holds text; the spec promises none"),
    ],
)
def test_features_that_break_the_contract_are_named(run: Callable[..., RegionBatch], given: object, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        run(given, channels=5)
