"""Whatever an expert does to torch, its checks leave torch as it was."""

from __future__ import annotations

import torch
from torch import nn

from tove_core.spec import Cost


class Spoils(nn.Module):
    """The conforming expert with something done before it."""

    def __init__(self, before):
        super().__init__()
        self.conv, self.before = nn.Conv2d(3, 33, 8, 8), before

    def forward(self, pixels):
        self.before(pixels)
        return {"map": self.conv(pixels)}


def test_torch_is_left_as_it_was(offer, everything):
    def spoil(ctx):
        torch.set_default_dtype(torch.float64)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        return nn.Identity()

    before = torch.get_default_dtype(), torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    drawn = torch.get_rng_state()
    results = everything(offer(spoil))
    assert not results["no-global-state"].ok
    after = torch.get_default_dtype(), torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    assert before == after
    assert torch.equal(drawn, torch.get_rng_state())


def test_what_a_forward_pass_changes_is_told_as_its_doing_and_put_back(offer, everything):
    def spoil(pixels):
        torch.set_num_threads(before + 1)

    before = torch.get_num_threads()
    results = everything(offer(lambda ctx: Spoils(spoil), cost=Cost(params=6_369)))
    try:
        assert results["no-global-state"].detail == "forward changed torch's number of threads"
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)
