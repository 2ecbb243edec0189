from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tove_core.fusion.noise import annealed, sample_keys, sample_mask, sample_noise

CPU = torch.device("cpu")


def test_keys_tell_seeds_epochs_and_samples_apart():
    seen = [
        int(key) for seed in (0, 1, 2) for epoch in (0, 1, 7) for key in sample_keys(seed, [epoch] * 1000, range(1000))
    ]
    assert len(set(seen)) == len(seen)
    assert min(seen) >= 0


def test_keys_do_not_depend_on_the_batch():
    together = sample_keys(3, [0, 0, 1], [5, 9, 5])
    alone = torch.cat([sample_keys(3, [epoch], [index]) for epoch, index in ((0, 5), (0, 9), (1, 5))])
    assert together.dtype == torch.int64
    assert torch.equal(together, alone)
    for kind in (np.array, torch.tensor):
        assert torch.equal(sample_keys(3, kind([0, 0, 1]), kind([5, 9, 5])), together)


def test_an_epoch_for_each_sample_is_needed():
    with pytest.raises(ValueError, match="zip"):
        sample_keys(0, [0], [1, 2])


@pytest.mark.parametrize(
    "drawn", [lambda keys: sample_noise(keys, (7, 3), CPU), lambda keys: sample_mask(keys, 5, 0.5)]
)
def test_a_sample_gets_the_same_draw_alone_in_another_order_and_again(drawn):
    keys = sample_keys(0, [0] * 6, range(6))
    whole = drawn(keys)
    order = torch.tensor([4, 1, 5])
    assert torch.equal(drawn(keys[order]), whole[order])
    assert torch.equal(drawn(keys[2:3]), whole[2:3])
    torch.manual_seed(99)
    assert torch.equal(drawn(keys), whole), "the global generator plays no part"


def test_drawing_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    sample_noise(torch.arange(3), (2,), CPU)
    sample_mask(torch.arange(3), 2, 0.5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_is_standard_normal_and_samples_are_independent():
    noise = sample_noise(sample_keys(0, [0] * 200, range(200)), (63, 3), CPU)
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.std()) - 1) < 0.03
    flat = noise.flatten(1)
    correlation = torch.corrcoef(flat[:40])[~torch.eye(40, dtype=torch.bool)]
    assert float(correlation.abs().max()) < 0.4  # 189 values each: five standard deviations are 0.36


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 1.0])
def test_experts_are_dropped_at_the_configured_rate_one_by_one(dropout):
    mask = sample_mask(sample_keys(1, [0] * 4000, range(4000)), 5, dropout)
    assert mask.dtype == torch.bool
    rate = 1 - mask.double().mean(0)
    assert (rate - dropout).abs().max() < 0.04
    both = (~mask[:, 0] & ~mask[:, 1]).double().mean()
    assert abs(float(both) - dropout**2) < 0.04


def test_an_empty_batch_gives_empty_draws():
    none = torch.empty(0, dtype=torch.int64)
    assert sample_noise(none, (7, 3), CPU).shape == (0, 7, 3)
    assert sample_mask(none, 3, 0.5).shape == (0, 3)


def test_annealing_falls_along_half_a_cosine_to_zero():
    values = [annealed(0.3, step, 100) for step in range(0, 121)]
    assert values[0] == 0.3
    assert values[50] == pytest.approx(0.15)
    assert values[100] == values[120] == pytest.approx(0.0, abs=1e-12)
    assert all(a >= b for a, b in pairwise(values))
    assert annealed(0.3, 0, 0) == 0.3
