from __future__ import annotations

import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn
from transformers.activations import ACT2FN

from tove_core.tower.activation import activation_of


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (QuickGELU(), "quick_gelu"),
        (ACT2FN["gelu"], "gelu"),
        (ACT2FN["gelu_pytorch_tanh"], "gelu_tanh"),
        (ACT2FN["quick_gelu"], "quick_gelu"),
        (nn.SiLU(), "other"),
        (nn.Linear(65, 3), "other"),
    ],
)
def test_an_activation_is_recognised_by_what_it_computes(module, name):
    assert activation_of([module, module]) == name


def test_blocks_that_differ_have_no_common_activation():
    assert activation_of([nn.GELU(), QuickGELU()]) == "other"


def test_looking_leaves_no_graph():
    layer = nn.Linear(65, 65)
    activation_of([layer])
    assert layer.weight.grad is None and torch.is_grad_enabled()
