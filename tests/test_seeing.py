from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest
import torch

from tove_core.errors import DataError, UnknownExpertError
from tove_core.seeing import as_now

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")


def built(toy: Any, *experts: Any, **options: Any) -> Any:
    model = toy.build(*experts, seed=3, **options)
    model.calibrate(toy.pictures(4))
    return model


@pytest.mark.parametrize("fusion", ["gate", "uniform", "concat"])
def test_an_expert_that_is_switched_while_images_are_seen_counts_for_the_next_call(
    toy: Any, fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(toy, fusion={"kind": fusion})
    shown, run = toy.pictures(2), type(model.experts["toy-wide"]).forward
    whole, switch = model.tokens(shown), [model.detach, model.attach]

    def meanwhile(expert: Any, pixels: Any) -> Any:
        if expert.name == "toy-wide":
            switch[0]("toy-fine")
            switch.reverse()
        return run(expert, pixels)

    model.detach("toy-fine")
    less = model.tokens(shown)
    model.attach("toy-fine")
    monkeypatch.setattr(type(model.experts["toy-wide"]), "forward", meanwhile)
    asked = [model.tokens, model.forward] + [lambda _: model.gates(shown)] * 2 * (fusion == "gate")
    for number, ask in enumerate(asked):
        found = ask(shown)
        assert isinstance(found, dict) or torch.equal(found, less if number % 2 else whole)
        if isinstance(found, dict):
            assert bool(found["toy-fine"].any()) != bool(number % 2)
    assert not torch.equal(whole, less) and isinstance(model.tokens(shown), torch.Tensor)
    assert model.active_experts == ["toy-wide", "toy-whole"]


@pytest.mark.parametrize("rule", ["zero", "renormalise"])
def test_switching_the_model_as_it_is_now_leaves_the_model_itself(toy: Any, rule: Any) -> None:
    model, shown = built(toy), toy.pictures(2)
    whole, now = model.tokens(shown), as_now(model)
    now.detach("toy-fine", rule)
    assert "toy-fine" not in now.active_experts and torch.equal(model.tokens(shown), whole)
    less = now.tokens(shown)
    now.attach("toy-fine")
    assert torch.equal(now.tokens(shown), whole)
    model.detach("toy-fine", rule)
    assert sorted(now.active_experts) == sorted(toy.experts) and torch.equal(model.tokens(shown), less)
    with pytest.raises(UnknownExpertError, match="no expert 'nope'"):
        now.detach("nope", rule)


def test_experts_are_switched_while_other_threads_ask(toy: Any) -> None:
    model = built(toy)
    shown, faults = toy.pictures(1), []
    known = [model.tokens(shown)]
    model.detach("toy-fine")
    known.append(model.tokens(shown))
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                found = model.tokens(shown)
                assert any(torch.allclose(found, one, atol=1e-6) for one in known), "neither with nor without it"
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(2000):
            model.attach("toy-fine")
            model.detach("toy-fine")
            time.sleep(1e-4)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert not faults


@pytest.mark.parametrize("fusion", ["gate", "uniform", "concat", "clip-mlp"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_stop_whoever_asks_with_the_experts_and_the_images_name(
    toy: Any, fusion: str, value: float
) -> None:
    experts = [] if fusion == "clip-mlp" else ["toy-wide", "toy-whole"]
    model = built(toy, experts, fusion={"kind": fusion})
    shown = toy.pictures(3)
    wrong = model.tower if fusion == "clip-mlp" else model.experts["toy-whole"].module
    wrong.register_forward_hook(lambda *call: spoil(call[-1], value))
    named = "CLIP" if fusion == "clip-mlp" else "expert 'toy-whole'"
    for ask in (model.tokens, model.caption, lambda images: model.answer(images, "what?", batch_size=2)):
        with pytest.raises(DataError, match=f"^{named} gave values .* for image 2 of [23] \\({shown[1]}\\); leave"):
            ask(shown)
    if fusion == "gate":
        with pytest.raises(DataError, match="image 2 of 3"):
            model.gates(shown)
        model.detach("toy-whole")
        assert model.tokens(shown).isfinite().all()
    assert len(model.caption(shown[:1])) == 1


def spoil(outputs: Any, value: float) -> Any:
    """Make one number of the second image what it must not be."""
    for tensor in outputs.values() if isinstance(outputs, dict) else [outputs.patches]:
        if len(tensor) > 1:
            tensor[1].view(-1)[3] = value
    return outputs


def test_the_callers_autocast_changes_nothing_of_what_is_frozen_or_measured(toy: Any) -> None:
    model, other, shown = built(toy), toy.build(seed=3), toy.pictures(2)
    plain = model.encode(shown)
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.encode(shown)
        other.calibrate(toy.pictures(4))
    assert all(torch.equal(cast[name], plain[name]) for name in plain)
    assert torch.equal(other.fusion.second.weight, model.fusion.second.weight)
    for name in model.active_experts:
        model.detach(name)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.tokens(shown), plain["clip"])
