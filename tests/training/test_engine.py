from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.state import GradientState

from tove_core.config import TrainingConfig
from tove_core.errors import ConfigError
from tove_core.fusion.noise import sample_keys
from tove_core.fusion.transfer import Transfer
from tove_core.training.engine import Engine, Share
from tove_core.training.examples import Examples


def ready(toy: Any, **training: Any) -> tuple[Engine, Examples, Share]:
    gate = {"noise": 0.5, "expert_dropout": 0.2, "balance": 0.3, "balance_warmup": 0}
    model = toy.build(fusion={"gate": gate})
    toy.examples(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(8)
        for parameter in model.fusion.gate.parameters():  # gates are equal before training
            parameter.add_(torch.randn_like(parameter))
    examples = Examples.cached(model, toy.samples())
    indices = list(range(11))
    keys = sample_keys(2, [0] * 11, indices)
    texts = model.decoder.encode(examples.prompts(indices), examples.targets(indices, [0] * 11))
    engine = Engine(model, model.decoder, TrainingConfig(steps=4, batch_size=11, **training))
    return engine, examples, Share(indices, keys, texts)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mass_that_is_summed_beforehand_is_that_of_the_parts(toy: Any, precision: str) -> None:
    engine, examples, share = ready(toy, precision=precision, accumulate=3)
    seen = [(part, engine._seen(examples, part)) for part in share.parts(3)]
    found = engine._total_mass([(part, given["clip"]) for part, given in seen], 1)
    masses = [engine._forward(part, given, 1).mass for part, given in seen]
    assert found is not None and torch.equal(found, torch.stack(masses).sum(0))  # type: ignore[arg-type]


def test_the_mass_of_several_parts_takes_nothing_but_what_the_gate_sees(toy: Any) -> None:
    engine, examples, share = ready(toy, accumulate=3)
    events, gather = [], examples.table.gather

    def noted(indices: Any, device: Any, names: Any = None) -> Any:
        found = gather(indices, device, names)
        events.append(sorted(found))
        return found

    # The second linear is computed once where experts are mixed.
    engine.model.fusion.second.register_forward_hook(lambda *_: events.append("mixed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples.table, "gather", noted)
        engine.backward(examples, share, 0, tokens=share.tokens)
    every = sorted(examples.table.features)
    assert events == [["clip"]] * 3 + [every, "mixed"] * 3 and len(every) == 4


def test_what_a_step_was_like_is_read_in_one_go_whatever_its_parts(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, examples, share = ready(toy, accumulate=4)
    forward, plain, reads = engine._forward, torch.Tensor.tolist, []

    def spoilt(part: Any, given: Any, step: int) -> Any:
        output = forward(part, given, step)
        losses = output.per_sample.clone()
        losses[[i for i, index in enumerate(part.indices) if index in (3, 9)]] = torch.nan
        return output._replace(per_sample=losses)

    def noted(tensor: torch.Tensor) -> Any:
        reads.extend([1] * (tensor.is_floating_point()))
        return plain(tensor)

    monkeypatch.setattr(engine, "_forward", spoilt)
    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    report = engine.backward(examples, share, 0, tokens=share.tokens)
    assert len(reads) == 1 and report.bad == [3, 9]
    assert report.balance > 0 and sum(report.shares.values()) == pytest.approx(1)


def test_gradients_do_not_depend_on_what_accelerate_is_told_of_parts(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def lengths() -> dict[str, float]:
        GradientState._reset_state()
        engine, examples, share = ready(toy, accumulate=2)
        engine.inner.eval()  # no dropout, whose numbers would differ
        engine.backward(examples, share, 0, tokens=share.tokens)
        return {name: float(p.grad.norm()) for name, p in engine.inner.named_parameters() if p.grad is not None}

    plain = lengths()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    told = lengths()
    monkeypatch.delenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    GradientState._reset_state()
    assert told == pytest.approx(plain, rel=1e-5) and sum(plain.values()) > 0


def test_a_fusion_whose_gates_only_forward_gives_is_refused_in_several_parts_and_trains_in_one(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, examples, share = ready(toy)
    monkeypatch.setattr(type(whole.model.fusion), "weights", Transfer.weights)
    whole.backward(examples, share, 0, tokens=share.tokens)
    engine, examples, share = ready(toy, accumulate=3)
    with pytest.raises(ConfigError, match=r"gives gates in forward and none in weights.*define weights, or set"):
        engine.backward(examples, share, 0, tokens=share.tokens)
