"""A model trained through the Triton kernels is the model trained through plain PyTorch: on a GPU, or interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tove_core.config import TrainingConfig
from tove_core.training.loop import fit

GATES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "renormalise": {"expert_dropout": 0.5, "noise": 0.3},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", GATES)
def test_both_forms_train_the_same_model(name: str, toy: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = {"hidden": 6, "balance_warmup": 1} | GATES[name]
    rule = "renormalise" if name == "renormalise" else "zero"
    found = []
    for form in ("triton", "reference"):
        monkeypatch.setenv("TOVE_KERNELS", form)
        model = toy.build(fusion={"kind": "gate", "rule": rule, "gate": gate}, device=device)
        training = TrainingConfig(steps=2, batch_size=5, learning_rate=1e-2, warmup=1)
        fit(model, toy.examples(model), training, seed=0, quiet=True)
        found.append((model.tokens(toy.pictures()), {key: value.detach() for key, value in model.named_parameters()}))
    (tokens, got), (plain, want) = found
    torch.testing.assert_close(tokens, plain, rtol=1e-4, atol=1e-4)
    for key, value in want.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-4)
