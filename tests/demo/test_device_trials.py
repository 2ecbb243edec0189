"""`tove doctor --device` tells a device that computes something else from one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import tove_kernels

from tove_core.demo.device_trials import Trial, trials

Tove = Callable[..., Any]


def test_a_device_that_computes_what_the_cpu_does_passes() -> None:
    found = list(trials(torch.device("cpu")))
    assert all(trial.passed for trial in found), [str(trial) for trial in found]
    names = " ".join(trial.name for trial in found)
    for wanted in (
        "gated_mix float32",
        "gated_activation_mix bfloat16",
        "align_tokens",
        "tokens",
        "gradients",
        "answers",
    ):
        assert wanted in names


def test_a_kernel_that_is_wrong_or_fails_is_told_and_the_others_go_on(
    tove: Tove, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tove_kernels.gated_mix

    def wrong(tokens: Any, experts: Any, logits: Any, **options: Any) -> torch.Tensor:
        return plain(tokens, experts, logits, **options) * 1.001

    def broken(*given: Any, **options: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr(tove_kernels, "gated_mix", wrong)
    monkeypatch.setattr(tove_kernels, "align_tokens", broken)
    done = tove("doctor", "--device", "cpu")
    assert done.code == 1
    lines = done.out.splitlines()
    (said,) = [line for line in lines if line.startswith("  gated_mix float32")]
    assert "wrong, off by 1.0e-03, may be 1e-05" in said
    failed = [line for line in lines if "failed, RuntimeError: no kernel image is available for execution" in line]
    assert len(failed) == 4 and lines[-1].startswith("5 of them failed") and "TOVE_KERNELS=reference" in lines[-1]
    (model,) = [line for line in lines if "a model's tokens" in line]
    assert "off by 0.0e+00" in model


def test_a_gradient_that_is_not_finite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tove_kernels.gated_mix

    def poisoned(tokens: Any, experts: Any, logits: Any, **options: Any) -> torch.Tensor:
        logits.register_hook(lambda gradient: gradient * float("nan"))
        return plain(tokens, experts, logits, **options)

    monkeypatch.setattr(tove_kernels, "gated_mix", poisoned)
    first, second, *_ = trials(torch.device("cpu"))
    assert first.name == "gated_mix float32" and not first.passed and second.passed


def test_what_is_not_finite_does_not_pass() -> None:
    assert not Trial("x", float("nan"), 1.0, 0.0).passed and not Trial("x", None, 1.0, 0.0, "gone").passed


def test_a_device_that_is_missing_is_told(tove: Tove, toy: Any) -> None:
    assert "--device 'cuda:63' cannot be used here" in tove("doctor", "--device", "cuda:63").error
