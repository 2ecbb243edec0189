"""AdamW in one pass over each parameter, against PyTorch's plain form of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tove_core.training.optimise import adamw
from tove_core.training.state import load_state, save_state


def net(dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3)).to(dtype)


def plain(module):
    return torch.optim.AdamW(groups(module), betas=(0.8, 0.95), foreach=False, fused=False)


def ours(module):
    return adamw(groups(module), betas=(0.8, 0.95))


def groups(module):
    matrices = [one for one in module.parameters() if one.dim() > 1]
    others = [one for one in module.parameters() if one.dim() <= 1]
    return [{"params": matrices, "lr": 0.03, "weight_decay": 0.1}, {"params": others, "lr": 0.01, "weight_decay": 0.0}]


def learn(module, optimizer, steps, first=0):
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        seen = torch.randn(4, 7, generator=draw, dtype=torch.float64).to(next(module.parameters()).dtype)
        optimizer.zero_grad()
        module(seen).square().sum().backward()
        optimizer.step()
    return [one.detach().clone() for one in module.parameters()]


def test_steps_are_those_of_plain_adamw():
    one, other = net(), net()
    fused = ours(one)
    assert fused.defaults["fused"] is True
    for got, want in zip(learn(one, fused, 5), learn(other, plain(other), 5), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("stranger", [torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64)])
def test_where_one_parameter_has_no_fused_step_none_is_asked_for(stranger):
    assert adamw([*net().parameters(), nn.Parameter(stranger)]).defaults["fused"] is None


@pytest.mark.parametrize(("before", "after"), [(plain, ours), (ours, plain)])
def test_a_state_written_by_one_form_goes_on_in_the_other(tmp_path, before, after):
    module = net(torch.float32)
    optimizer = before(module)
    learn(module, optimizer, 3)
    save_state(tmp_path, 3, module, optimizer)
    want = learn(module, optimizer, 2, first=3)
    again = net(torch.float32)
    resumed = after(again)
    assert load_state(tmp_path, again, resumed) == 3
    for got, one in zip(learn(again, resumed, 2, first=3), want, strict=True):
        torch.testing.assert_close(got, one, rtol=1e-5, atol=1e-6)
