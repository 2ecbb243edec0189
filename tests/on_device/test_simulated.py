"""The simulated device refuses what a GPU refuses, and otherwise computes what the CPU does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def simulated(device: str) -> None:
    if device != "sim":
        pytest.skip("a real device is under test")


HERE, THERE = torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3).to
MIXED: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: x + torch.ones(2, 3),
    "another device": lambda x: x + torch.ones(2, 3, device="sim:1"),
    "linear": nn.Linear(3, 4),
    "cat": lambda x: torch.cat([x, torch.ones(2, 3)]),
    "where": lambda x: torch.where(torch.ones(2, 3).bool(), x, 0.0),
    "an index put": lambda x: x.index_put_((torch.tensor([0]),), torch.ones(3)),
    "embedding": lambda x: nn.functional.embedding(torch.tensor([0]), x),
    "in place": lambda x: torch.ones(2, 3).add_(x),
    "a generator": lambda x: torch.rand(3, generator=torch.Generator(), device=x.device),
    "a draw in place": lambda x: x.normal_(generator=torch.Generator()),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_lies_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="was given"):
        MIXED[name](HERE.to("sim"))


def test_values_leave_the_device_by_name_alone() -> None:
    there = HERE.to("sim")
    with pytest.raises(TypeError, match="no numpy"):
        there.numpy()
    assert there.device == torch.device("sim:0") and there.to("sim:1").device.index == 1
    assert torch.equal(there.cpu(), HERE) and there.tolist() == HERE.tolist() and there[1, 2].item() == 5


def test_scalars_and_indices_of_the_cpu_are_taken_as_on_a_gpu() -> None:
    there = HERE.to("sim")
    assert torch.equal((there * torch.tensor(2.0))[torch.tensor([1])].cpu(), HERE[[1]] * 2)
    assert torch.equal(there[:, [2, 0]].cpu(), HERE[:, [2, 0]])


def test_views_write_through_and_gradients_flow() -> None:
    there = torch.zeros(2, 3, device="sim")
    there[:, 1].add_(1)
    assert torch.equal(there.cpu(), torch.tensor([[0.0, 1, 0], [0, 1, 0]]))
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 1))
    want = torch.autograd.grad(layers(HERE).square().mean(), list(layers.parameters()))
    layers.to("sim")
    layers(HERE.to("sim")).square().mean().backward()
    for parameter, gradient in zip(layers.parameters(), want, strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad.cpu(), gradient)


def test_shared_parameters_stay_shared_and_autocast_computes_in_bfloat16() -> None:
    layers = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3)])
    layers[1].weight = layers[0].weight
    layers.to("sim")
    assert layers[1].weight is layers[0].weight and layers[0].weight.device.type == "sim"
    with torch.autocast("sim", torch.bfloat16):
        given = layers[1](HERE.to("sim"))
        assert given.dtype == torch.bfloat16 and given.softmax(-1).dtype == torch.float32
