from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tove_core.errors import ContractError, PluginError
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.load import load_expert
from tove_core.hub.placement import PlacedExpert, Placement
from tove_core.hub.regions import RegionBatch
from tove_core.spec import ExpertSpec, Grid, Input, Regions, Vector

MakeSpec = Callable[..., ExpertSpec]


class Patches(nn.Module):
    """A grid and a vector; batch norm and dropout tell whether evaluation mode holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, 4)
        self.norm = nn.BatchNorm2d(5)
        self.drop = nn.Dropout(0.5)
        self.seen: list[tuple[torch.dtype, bool]] = []

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        grid = self.drop(self.norm(self.conv(pixels)))
        self.seen.append((grid.dtype, torch.is_grad_enabled()))
        return {"word": grid.mean((2, 3)), "map": grid}


class Gives(nn.Module):
    """Returns whatever a function makes of the pixels; has no parameters."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, pixels: Tensor) -> Any:
        return self.function(pixels)


@pytest.fixture
def spec(make_spec: MakeSpec) -> ExpertSpec:
    outputs = {"map": Grid(channels=5, stride=4, norm="fixed"), "word": Vector(channels=5)}
    return make_spec(outputs=outputs, input=Input(size=(8, 12), patch=4))


@pytest.fixture
def expert(spec: ExpertSpec) -> FrozenExpert:
    torch.manual_seed(0)
    return FrozenExpert(Patches(), spec, "tiny")


def test_freezing_survives_train_on_it_and_on_its_parent(expert: FrozenExpert) -> None:
    parent = nn.Sequential(expert, nn.Linear(2, 2)).train()
    assert parent.training and not any(m.training for m in expert.modules())
    assert not any(m.training for m in expert.train().modules())
    pixels = torch.randn(2, 3, 8, 12)
    before = {key: value.clone() for key, value in expert.state_dict().items()}
    first, second = expert(pixels), expert(pixels)
    assert torch.equal(first["map"], second["map"])
    assert all(torch.equal(before[key], value) for key, value in expert.state_dict().items())


def test_no_parameter_wants_a_gradient_and_none_flows(expert: FrozenExpert) -> None:
    assert not any(p.requires_grad for p in expert.parameters())
    pixels = torch.randn(1, 3, 8, 12, requires_grad=True)
    assert not any(out.requires_grad for out in expert(pixels).values())
    expert.requires_grad_(True)
    assert not any(out.requires_grad for out in expert(pixels).values())
    assert isinstance(expert.module, Patches)
    assert all(not enabled for _, enabled in expert.module.seen)
    assert torch.is_grad_enabled()


def test_trained_layers_can_learn_from_what_it_gives(expert: FrozenExpert, spec: ExpertSpec) -> None:
    @torch.inference_mode()
    def inside(pixels: Tensor) -> dict[str, Tensor]:
        return {"map": pixels.new_ones(1, 5, 2, 3), "word": pixels.new_ones(1, 5)}

    for frozen in (expert, FrozenExpert(Gives(inside), spec, "tiny")):
        layer = nn.Linear(5, 2)
        layer(frozen(torch.randn(1, 3, 8, 12))["word"]).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


def test_outputs_are_float32_in_the_order_of_the_spec(expert: FrozenExpert, spec: ExpertSpec) -> None:
    low = FrozenExpert(Patches().to(torch.bfloat16), spec, "low")
    low.module.load_state_dict(expert.module.state_dict())
    pixels = torch.randn(3, 3, 8, 12)
    exact, rounded = expert(pixels), low(pixels)
    assert list(exact) == list(spec.outputs)
    assert low.dtype == torch.bfloat16 and isinstance(low.module, Patches)
    assert low.module.seen == [(torch.bfloat16, False)]
    for key, tensor in rounded.items():
        assert tensor.dtype == torch.float32 and tensor.device == pixels.device
        assert not torch.equal(tensor, exact[key])
        assert torch.allclose(tensor, exact[key], atol=0.05)


def test_pixels_of_another_precision_are_cast(expert: FrozenExpert) -> None:
    pixels = torch.randn(2, 3, 8, 12)
    assert torch.equal(expert(pixels.double())["map"], expert(pixels)["map"])


def test_the_callers_autocast_does_not_decide_the_precision(expert: FrozenExpert) -> None:
    pixels = torch.randn(2, 3, 8, 12)
    plain = expert(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(expert(pixels)["map"], plain["map"])


class Turns(nn.Module):
    """Turns pairs of channels by angles that it keeps as complex numbers, as rotary positions are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 4, 4)
        self.register_buffer("turn", torch.polar(torch.ones(3), torch.tensor([0.3, 1.0, 2.0])), persistent=False)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        pairs = self.conv(pixels).float().unflatten(1, (3, 2)).movedim(2, -1).contiguous()
        turned = torch.view_as_real(torch.view_as_complex(pairs) * self.turn[:, None, None])
        return {"map": turned.movedim(-1, 2).flatten(1, 2)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_complex_numbers_stay_complex_in_every_precision(make_spec: MakeSpec, dtype: torch.dtype) -> None:
    outputs = {"map": Grid(channels=6, stride=4, norm="fixed")}
    spec = make_spec(outputs=outputs, input=Input(size=(8, 12), patch=4), factory=f"{__name__}:turns")
    pixels = torch.randn(2, 3, 8, 12)
    expert, _ = load_expert(spec, name="tiny", dtype=dtype)
    placed, _ = load_expert(spec, name="tiny", dtype=dtype, placement=Placement())
    expected = expert.module.conv(pixels.to(dtype)).float().unflatten(1, (3, 2))
    x, y = expected.unbind(2)
    turn = torch.tensor([0.3, 1.0, 2.0])[:, None, None]
    expected = torch.stack([x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()], 2).flatten(1, 2)
    for one in (expert, placed, nn.Sequential(expert).to(dtype)[0]):
        assert (one.dtype, one.module.turn.dtype) == (dtype, torch.complex64)
        torch.testing.assert_close(one(pixels)["map"], expected, rtol=1e-5, atol=1e-5)
    assert expert.to("meta").module.turn.is_meta


def turns(_: object) -> nn.Module:
    return Turns()


def test_the_module_computes_where_it_lies_and_outputs_come_back(spec: ExpertSpec) -> None:
    # The meta device stands for an accelerator: what arrives there must have been sent there.
    arrived: list[torch.device] = []

    def function(pixels: Tensor) -> dict[str, Tensor]:
        arrived.append(pixels.device)
        return {"map": torch.zeros(1, 5, 2, 3), "word": torch.zeros(1, 5)}

    module = Gives(function)
    module.register_buffer("table", torch.zeros(2, device="meta"))
    outputs = FrozenExpert(module, spec, "away")(torch.zeros(1, 3, 8, 12))
    assert arrived == [torch.device("meta")]
    assert all(out.device == torch.device("cpu") for out in outputs.values())


def test_where_an_expert_lies_is_asked_of_its_first_tensor_alone(
    expert: FrozenExpert, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, parameters = [], expert.module.parameters

    def noted() -> Any:
        for parameter in parameters():
            seen.append(parameter)
            yield parameter

    first, *others = parameters()
    assert others
    monkeypatch.setattr(expert.module, "parameters", noted)
    assert (expert.device, expert.dtype) == (first.device, first.dtype)
    assert len(seen) == 2


def test_an_expert_without_tensors_computes_in_float32_wherever_its_input_is(spec: ExpertSpec) -> None:
    bare = FrozenExpert(
        Gives(lambda x: {"map": x.new_zeros(len(x), 5, 2, 3).double(), "word": x.new_zeros(len(x), 5).half()}),
        spec,
        "bare",
    )
    assert bare.dtype == torch.float32 and bare.device is None
    assert all(out.dtype == torch.float32 for out in bare(torch.randn(2, 3, 8, 12)).values())


class Reuses(nn.Module):
    """Writes into tensors it keeps, and gives those, or views of them."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def forward(self, pixels: Tensor) -> dict[str, Any]:
        made = {"map": nn.functional.avg_pool2d(pixels, 4), "boxes": pixels[:, :1, 0, :4].sigmoid()}
        made |= {"scores": pixels[:, 0, 0, :1].sigmoid(), "valid": pixels[:, 0, 1, :1] > 0}
        for name, value in made.items():
            self.kept.setdefault(name, value.clone())[: len(value)] = value
        boxes, scores, valid = (self.kept[name][: len(pixels)] for name in ("boxes", "scores", "valid"))
        return {"map": self.kept["map"][: len(pixels)], "found": RegionBatch(boxes * 0, scores, valid)}


@pytest.mark.parametrize("size", [None, 1, 2])
def test_what_an_expert_gave_stays_as_it_was_at_its_next_call(make_spec: MakeSpec, size: int | None) -> None:
    outputs = {"map": Grid(channels=3, stride=4, norm="none"), "found": Regions(limit=4)}
    spec = make_spec(outputs=outputs, input=Input(size=(8, 12), patch=4))
    pixels = torch.randn(4, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    expert = PlacedExpert(Reuses(), spec, "tiny", Placement(micro_batch=size))
    found = expert(pixels)
    expert(torch.zeros(4, 3, 8, 12))
    assert torch.equal(found["map"], nn.functional.avg_pool2d(pixels, 4))
    valid = pixels[:, 0, 1, :1] > 0
    assert torch.equal(found["found"].valid, valid) and 0 < valid.sum() < 4
    assert torch.equal(found["found"].scores, pixels[:, 0, 0, :1].sigmoid() * valid)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"map": (2, 5, 3, 2)}, r"'map' has shape \[2, 5, 3, 2\]; the spec promises \[2, 5, 2, 3\] for 8x12.*stride 4"),
        ({"map": (1, 5, 2, 3)}, r"promises \[2, 5, 2, 3\]"),
        ({"word": (2, 4)}, r"'word' has shape \[2, 4\]; the spec promises \[2, 5\]"),
        ({"word": (2, 1, 5)}, "'word'"),
        ({"word": None}, r"\['word'\] missing"),
        ({"extra": (2, 5)}, r"\['extra'\] extra"),
        ({"word": "text"}, "'word' is str"),
        ({"word": torch.ones(2, 5, dtype=torch.int64)}, "'word' is torch.int64; return floating point numbers"),
        ({"map": torch.ones(2, 5, 2, 3) > 0}, "'map' is torch.bool; return floating point numbers"),
        ({"map": torch.ones(2, 5, 2, 3) * 1j}, "'map' is torch.complex64; return floating point numbers"),
    ],
)
def test_outputs_that_differ_from_the_spec_are_named(spec: ExpertSpec, outputs: dict[str, Any], words: str) -> None:
    wanted = {"map": (2, 5, 2, 3), "word": (2, 5)} | outputs

    def function(pixels: Tensor) -> dict[str, Any]:
        return {k: torch.zeros(v) if isinstance(v, tuple) else v for k, v in wanted.items() if v is not None}

    with pytest.raises(ContractError, match=f"expert 'mine'.*{words}"):
        FrozenExpert(Gives(function), spec, "mine")(torch.zeros(2, 3, 8, 12))


@pytest.mark.parametrize("returned", [torch.zeros(2, 5, 2, 3), None, (1, 2)])
def test_anything_but_a_mapping_is_refused(spec: ExpertSpec, returned: object) -> None:
    with pytest.raises(ContractError, match="return a mapping"):
        FrozenExpert(Gives(lambda _: returned), spec, "mine")(torch.zeros(2, 3, 8, 12))


def test_the_contract_is_checked_on_every_call(spec: ExpertSpec) -> None:
    calls: list[int] = []

    def function(pixels: Tensor) -> dict[str, Tensor]:
        calls.append(1)
        return {"map": torch.zeros(1, 5, 2, 3), "word": torch.zeros(1, 5 if len(calls) < 3 else 6)}

    frozen = FrozenExpert(Gives(function), spec, "late")
    frozen(torch.zeros(1, 3, 8, 12))
    frozen(torch.zeros(1, 3, 8, 12))
    with pytest.raises(ContractError, match="'word'"):
        frozen(torch.zeros(1, 3, 8, 12))


def test_an_expert_that_writes_into_its_input_is_refused(spec: ExpertSpec) -> None:
    def function(pixels: Tensor) -> dict[str, Tensor]:
        pixels.mul_(2)
        return {"map": torch.zeros(1, 5, 2, 3), "word": torch.zeros(1, 5)}

    with pytest.raises(ContractError, match="wrote into its input"):
        FrozenExpert(Gives(function), spec, "rude")(torch.zeros(1, 3, 8, 12))


def test_within_the_callers_inference_mode_it_runs_as_outside(expert: FrozenExpert, spec: ExpertSpec) -> None:
    placed = PlacedExpert(expert.module, spec, "tiny", Placement(offload=True, micro_batch=2))
    with torch.inference_mode():
        pixels = torch.randn(3, 3, 8, 12)
        found = [one(pixels)["map"] for one in (expert, placed)]
    assert torch.equal(found[0], expert(pixels)["map"]) and torch.allclose(found[1], found[0])
    assert not any(out.is_inference() or out.requires_grad for out in found)
    assert isinstance(expert.module, Patches) and not any(enabled for _, enabled in expert.module.seen)
    rude = FrozenExpert(Gives(lambda x: {"map": x.mul_(2), "word": x}), spec, "rude")
    with torch.inference_mode(), pytest.raises(ContractError, match="wrote into its input"):
        rude(pixels)


@pytest.mark.parametrize(
    "pixels",
    [torch.zeros(3, 8, 12), torch.zeros(1, 1, 8, 12), torch.zeros(1, 3, 12, 8), torch.zeros(1, 3, 8, 12).byte()],
)
def test_pixels_that_the_spec_does_not_want_are_refused(expert: FrozenExpert, pixels: Tensor) -> None:
    with pytest.raises(ContractError, match="expert 'tiny' got pixels"):
        expert(pixels)


def test_a_dynamic_input_takes_other_multiples(make_spec: MakeSpec) -> None:
    outputs = {"map": Grid(channels=5, stride=4, norm="fixed"), "word": Vector(channels=5)}
    spec = make_spec(outputs=outputs, input=Input(size=(8, 12), patch=4, dynamic=True))
    frozen = FrozenExpert(Patches(), spec, "tiny")
    assert frozen(torch.zeros(2, 3, 20, 4))["map"].shape == (2, 5, 5, 1)
    with pytest.raises(ContractError, match="multiples of 4"):
        frozen(torch.zeros(1, 3, 20, 6))


def test_code_of_an_expert_that_fails_is_named_with_what_it_was_given(spec: ExpertSpec) -> None:
    expert = FrozenExpert(Gives(lambda pixels: 1 / 0), spec, "tiny")
    with pytest.raises(PluginError, match=r"'tiny' failed on pixels \[2, 3, 8, 12\] \(ZeroDivisionError") as caught:
        expert(torch.randn(2, 3, 8, 12))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), ContractError("said already")])
def test_what_others_know_how_to_tell_passes_as_it_is(spec: ExpertSpec, error: Exception) -> None:
    def fails(pixels: Tensor) -> Any:
        raise error

    with pytest.raises(type(error)) as caught:
        FrozenExpert(Gives(fails), spec, "tiny")(torch.randn(2, 3, 8, 12))
    assert caught.value is error
