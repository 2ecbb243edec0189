from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tove_core.config import ExpertConfig
from tove_core.errors import ConfigError, ContractError, PluginError
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.offload import brought_to
from tove_core.hub.placement import PlacedExpert, Placement, usable_device
from tove_core.hub.regions import RegionBatch
from tove_core.hub.streams import run_beside
from tove_core.hub.transfer import arrived, sent
from tove_core.spec import ExpertSpec, Grid, Input, Regions

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Conv(nn.Module):
    """A convolution with a buffer, which notes where its weights lay when it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 33, 4, 4)
        self.norm = nn.BatchNorm2d(33)
        self.ran: list[tuple[int, int]] = []
        self.fails = False

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        if not torch.compiler.is_compiling():
            self.ran.append((self.conv.weight.data_ptr(), self.norm.running_var.data_ptr()))
        if self.fails:
            raise ArithmeticError("in the middle")
        return {"map": self.norm(self.conv(pixels))}


def module() -> Conv:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Conv()


def placed(placement: Placement, made: nn.Module | None = None) -> PlacedExpert:
    spec = ExpertSpec(
        api=1,
        name="conv",
        summary="A convolution.",
        factory="nowhere:build",
        input=Input(size=(16, 24)),
        outputs={"map": Grid(channels=33, stride=4)},
    )
    return PlacedExpert(made or module(), spec, "conv", placement)


def pixels(count: int = 5) -> Tensor:
    return torch.randn(count, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def plain() -> Tensor:
    return placed(Placement())(pixels())["map"]


def test_offloaded_weights_are_elsewhere_only_while_they_run_and_the_bits_are_the_same() -> None:
    made = module()
    expert = placed(Placement(offload=True), made)
    home = [(t.data_ptr(), t.clone()) for t in [*made.parameters(), *made.buffers()]]
    assert torch.equal(expert(pixels())["map"], plain())
    assert made.ran[0][0] != made.conv.weight.data_ptr() and made.ran[0][1] != made.norm.running_var.data_ptr()
    assert [t.data_ptr() for t in [*made.parameters(), *made.buffers()]] == [pointer for pointer, _ in home]
    assert torch.equal(expert(pixels())["map"], plain()), "a second time"
    assert all(torch.equal(t, kept) for t, (_, kept) in zip([*made.parameters(), *made.buffers()], home, strict=True))


def test_an_error_in_the_middle_brings_offloaded_weights_home() -> None:
    made = module()
    made.fails = True
    expert, home = placed(Placement(offload=True), made), made.conv.weight.data_ptr()
    with pytest.raises(PluginError, match="ArithmeticError: in the middle"):
        expert(pixels())
    assert made.conv.weight.data_ptr() == home
    with pytest.raises(ContractError):
        expert(pixels()[:, :2])


def test_shared_parameters_are_brought_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    both = nn.Sequential(first, second)
    with brought_to(both, CPU):
        assert second.weight is first.weight
    assert second.weight is first.weight


def test_threads_share_what_is_brought_and_the_last_one_brings_it_home() -> None:
    made, threads = module(), 4
    home = [t.data_ptr() for t in [*made.parameters(), *made.buffers()]]
    together, leaving = threading.Barrier(threads, timeout=30), [threading.Event() for _ in range(threads + 1)]
    leaving[0].set()

    def stay(number: int) -> list[list[int]]:
        with brought_to(made, CPU):
            together.wait()  # all are in it, and leave in turn
            assert leaving[number].wait(30)
            seen = [t.data_ptr() for t in [*made.parameters(), *made.buffers()]]
        after = [t.data_ptr() for t in [*made.parameters(), *made.buffers()]]
        leaving[number + 1].set()
        return [seen, after]

    with ThreadPoolExecutor(threads) as pool:
        inside, after = zip(*pool.map(stay, range(threads)), strict=True)
    assert all(seen == inside[0] for seen in inside) and set(inside[0]).isdisjoint(home)
    assert after[-1] == home and all(seen == inside[0] for seen in after[:-1])


def test_what_cannot_be_brought_is_home_again_and_can_be_brought_later(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module()
    home, to = [t.data_ptr() for t in [*made.parameters(), *made.buffers()]], Tensor.to

    def full(self: Tensor, *args: Any, **given: Any) -> Tensor:
        if self.data_ptr() == home[2]:
            raise torch.OutOfMemoryError("no room for the third")
        return to(self, *args, **given)

    monkeypatch.setattr(Tensor, "to", full)
    with pytest.raises(torch.OutOfMemoryError), brought_to(made, CPU):
        pass
    monkeypatch.undo()
    assert [t.data_ptr() for t in [*made.parameters(), *made.buffers()]] == home
    with brought_to(made, CPU):
        assert made.conv.weight.data_ptr() != home[0]
    assert [t.data_ptr() for t in [*made.parameters(), *made.buffers()]] == home


def test_one_who_wants_it_on_another_device_waits_until_it_is_home() -> None:
    made, inside = module(), threading.Event()
    home, other_device = made.conv.weight.data_ptr(), torch.device("cpu", 0)

    def elsewhere() -> int:
        inside.set()
        with brought_to(made, other_device):
            return made.conv.weight.data_ptr()

    with ThreadPoolExecutor(1) as pool:
        with brought_to(made, CPU):
            other = pool.submit(elsewhere)
            assert inside.wait(30)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.2)
        assert other.result(timeout=30) != home
    assert made.conv.weight.data_ptr() == home


def test_an_expert_without_tensors_runs_where_it_is_placed() -> None:
    meta = torch.device("meta")
    assert placed(Placement(device=meta), nn.Identity()).device == meta
    assert placed(Placement(device=meta, offload=True), module()).device == meta


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_micro_batches_give_what_the_whole_batch_gives(size: int) -> None:
    torch.testing.assert_close(placed(Placement(micro_batch=size))(pixels())["map"], plain(), rtol=1e-6, atol=1e-6)


class Found(nn.Module):
    """A detector that finds as many regions as the image's first pixel says; slots are as many as the batch needs."""

    def forward(self, pixels: Tensor) -> dict[str, RegionBatch]:
        if len(pixels) > 3:
            raise torch.OutOfMemoryError("room for 3")
        counts = pixels[:, 0, 0, 0].long()
        valid = torch.arange(int(counts.max())) < counts[:, None]
        scores = valid * pixels[:, 1, :1, : valid.shape[1]].sigmoid().flatten(1)
        text = [[f"thing {i}" for i in range(valid.shape[1])] for _ in valid]
        return {"found": RegionBatch(scores[..., None].expand(-1, -1, 4), scores, valid, text=text)}


@pytest.mark.parametrize("size", [1, 2, 5, "auto"])
def test_a_detectors_parts_of_fewer_regions_make_the_whole_batch(size: Any) -> None:
    given, outputs = pixels(5), {"found": Regions(limit=9, text=True)}
    given[:, 0, 0, 0] = torch.tensor([2.0, 0, 1, 4, 3])
    spec = ExpertSpec(
        api=1, name="f", summary="A detector.", factory="nowhere:build", input=Input(size=(16, 24)), outputs=outputs
    )
    with pytest.warns(UserWarning, match="ran out of memory") if size in (5, "auto") else nullcontext():
        found = PlacedExpert(Found(), spec, "f", Placement(micro_batch=size))(given)["found"]
    alone = [FrozenExpert(Found(), spec, "f")(given[i : i + 1])["found"] for i in range(5)]
    assert found.boxes.shape == (5, 4, 4) and found.valid.sum(1).tolist() == [2, 0, 1, 4, 3]
    for i, one in enumerate(alone):
        assert torch.equal(found.scores[i][found.valid[i]], one.scores[one.valid])
        assert [word for word in found.text[i] if word] == list(one.text[0])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("offload", [False, True])
def test_a_compiled_expert_gives_the_same_and_keeps_its_names(offload: bool, backend: str) -> None:
    expert = placed(Placement(compile=backend, offload=offload))
    assert torch.equal(expert(pixels())["map"], plain())
    assert expert.module._compiled_call_impl is not None
    assert expert.state_dict().keys() == placed(Placement()).state_dict().keys()
    assert torch.equal(copy.deepcopy(expert)(pixels())["map"], plain())


def test_a_placed_expert_stays_frozen_in_bfloat16_too() -> None:
    expert = placed(Placement(offload=True, micro_batch=2), module().to(torch.bfloat16)).train()
    found = expert(pixels())["map"]
    assert found.dtype == torch.float32 and expert.dtype == torch.bfloat16 and not expert.training
    assert not any(p.requires_grad for p in expert.parameters()) and not found.requires_grad
    torch.testing.assert_close(found, plain(), rtol=2e-2, atol=4e-2)


def test_a_device_that_is_not_there_is_told_before_anything_is_loaded() -> None:
    for name in ("cuda:97", "gpu", "nonsense:1"):
        with pytest.raises(
            ConfigError, match=rf"^the device '{name}' cannot be used here \(.*\); choose another device"
        ):
            usable_device(name, "the device")
    assert usable_device("cpu", "the model") == CPU
    assert Placement.of(ExpertConfig(name="deep", micro_batch=3, compile=True), None).device == CPU


def test_a_backend_that_torch_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'no-such-backend'.*choose .*inductor"):
        Placement.of(ExpertConfig(name="deep", compile="no-such-backend"), None)
    assert Placement.of(ExpertConfig(name="deep", compile="eager"), None).compile == "eager"


def test_pixels_are_sent_once_to_each_device() -> None:
    shared, own = torch.ones(2), torch.zeros(2)
    meta = torch.device("meta")
    places = {"a": CPU, "b": meta, "c": meta, "d": meta}
    found = sent({"a": shared, "b": shared, "c": shared, "d": own}, places)
    assert found["a"] is shared and found["b"] is found["c"] and found["d"] is not found["b"]


def test_regions_arrive_with_all_their_tensors() -> None:
    boxes = torch.rand(1, 2, 4)
    given = RegionBatch(boxes=boxes, scores=boxes[..., 0], valid=boxes[..., 0] > 2, text=[["a", "b"]])
    found = arrived(given, torch.device("meta"))
    assert found.boxes.is_meta and found.scores.is_meta and found.valid.is_meta
    assert found.features is None and found.text == [["a", "b"]] and not given.boxes.is_meta


def test_tasks_without_streams_run_in_order() -> None:
    ran: list[str] = []

    def task(name: str) -> Any:
        return lambda: ran.append(name) or torch.tensor(len(ran))

    found = run_beside({name: task(name) for name in "abc"}, {"b": CPU})
    assert ran == ["a", "b", "c"] and list(found) == ["a", "b", "c"] and found["c"] == 3


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("offload", [False, True])
def test_on_a_gpu_offloading_changes_no_bit_and_leaves_nothing_behind(offload: bool) -> None:
    cuda = torch.device("cuda", 0)
    expert = placed(Placement(device=cuda, offload=offload))
    resident = placed(Placement(device=cuda))(pixels().to(cuda))["map"]
    assert torch.equal(expert(pixels().to(cuda))["map"], resident)
    weight = expert.module.conv.weight  # type: ignore[union-attr]
    assert expert.device == cuda and (weight.device.type == "cpu") == offload and weight.is_pinned() == offload
    torch.testing.assert_close(resident.cpu(), plain(), rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_streams_give_what_running_in_turn_gives() -> None:
    cuda = torch.device("cuda", 0)
    experts = {name: placed(Placement(device=cuda, stream=True)) for name in "abc"}
    given = torch.randn(64, 3, 16, 24, device=cuda)
    tasks = {name: lambda e=expert: e(given)["map"] for name, expert in experts.items()}
    for _ in range(3):
        found = run_beside(tasks, dict.fromkeys(experts, cuda))
        sums = {name: tensor.sum() for name, tensor in found.items()}
        turn = {name: task().sum() for name, task in tasks.items()}
        assert all(torch.equal(sums[name], turn[name]) for name in experts)


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_default_compiler_agrees() -> None:
    cuda = torch.device("cuda", 0)
    compiled = placed(Placement(device=cuda, compile=True))
    found = compiled(pixels().to(cuda))["map"]
    torch.testing.assert_close(found.cpu(), plain(), rtol=1e-2, atol=1e-2)
