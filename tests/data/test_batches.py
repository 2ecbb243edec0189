from __future__ import annotations

from collections import defaultdict

import pytest

from tove_core.data.batches import BatchSampler, Share
from tove_core.errors import DataError


def stream(sampler, steps):
    return [index for step in range(steps) for index in sampler.batch(step)]


@pytest.mark.parametrize(("n", "batch"), [(13, 5), (7, 7), (5, 12), (1, 1), (12, 4)])
def test_every_sample_comes_exactly_once_per_epoch(n, batch):
    epochs = 6
    indices = stream(BatchSampler(n, batch, seed=3), -(-n * epochs // batch))
    for epoch in range(epochs):
        assert sorted(indices[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_a_batch_that_crosses_the_epoch_boundary_is_as_large_as_the_others():
    sampler = BatchSampler(13, 5, seed=0)
    assert [len(sampler.batch(step)) for step in range(6)] == [5] * 6


def test_any_step_is_reached_directly_and_in_any_order():
    straight = [BatchSampler(11, 4, seed=9).batch(step) for step in range(40)]
    jumping = BatchSampler(11, 4, seed=9)
    assert [jumping.batch(step) for step in reversed(range(40))] == straight[::-1]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_shares_of_all_ranks_are_the_batch_of_one_process(world):
    sampler = BatchSampler(23, 5, seed=1)
    for step in range(12):
        shares = [sampler.batch(step, rank, world) for rank in range(world)]
        merged = [shares[place % world][place // world] for place in range(5)]
        assert merged == sampler.batch(step)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    "parts", [(), (Share(0, 3, 4.0), Share(3, 17, 1.0), Share(20, 3, 0.4))], ids=["plain", "mixture"]
)
def test_rounds_count_how_often_each_sample_came_before(parts):
    sampler, seen = BatchSampler(23, 5, 1, parts), defaultdict(list)
    for step in range(60):
        for index, number in zip(sampler.batch(step), sampler.rounds(step), strict=True):
            seen[index].append(number)
    # Within an epoch a part's samples are shuffled together, so the order of its rounds is.
    assert {index: sorted(numbers) for index, numbers in seen.items()} == {
        index: list(range(len(numbers))) for index, numbers in seen.items()
    }
    assert len(seen) == 23
    for step in (0, 7, 59):
        shares = [sampler.rounds(step, rank, 2) for rank in (0, 1)]
        assert [shares[place % 2][place // 2] for place in range(5)] == sampler.rounds(step)


def test_seeds_and_epochs_give_different_orders_and_negative_seeds_work():
    orders = {tuple(BatchSampler(50, 50, seed).batch(epoch)) for seed in (-1, 0, 1, 2) for epoch in range(3)}
    assert len(orders) == 12
    # Seed s in epoch e+1 must not repeat seed s+1 in epoch e, as adding them up would.
    assert BatchSampler(50, 50, 0).batch(1) != BatchSampler(50, 50, 1).batch(0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BatchSampler(0, 4, 0), "0 samples"),
        (lambda: BatchSampler(4, 0, 0), "batch size is 0"),
        (lambda: BatchSampler(4, 2, 0).batch(-1), "steps count from 0"),
        (lambda: BatchSampler(4, 2, 0).batch(0, 2, 2), "rank 2 of 2"),
        (lambda: BatchSampler(4, 2, 0).batch(0, 0, 3), "some would get no sample"),
    ],
)
def test_impossible_requests_are_refused(call, words):
    with pytest.raises(DataError, match=words):
        call()
