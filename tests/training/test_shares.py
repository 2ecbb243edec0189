"""What a process takes of a step, and what is left out because it does not fit the language model."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch

from tove_core.config import TrainingConfig
from tove_core.data.batches import BatchSampler
from tove_core.errors import DataError
from tove_core.training import fit
from tove_core.training.examples import Examples
from tove_core.training.run import prepare
from tove_core.training.shares import Shares


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"steps": 7, "batch_size": 5, "learning_rate": 1e-2, "warmup": 2} | changes)


def trained_state(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def wordy(toy: Any, model: Any) -> tuple[Examples, list[int]]:
    """Return four samples, the second with a long text and the last with three images, and the positions of each."""
    samples = toy.samples()
    told = replace(samples[4], targets=("black " * 200,))
    many = replace(samples[7], image=samples[7].images * 3)
    examples = Examples(model, [samples[0], told, samples[1], many], max_broken=0.5)
    prepare(model, samples)
    texts = model.decoder.encode(examples.prompts([0, 1, 2, 3]), [s.targets[0] for s in examples.samples])
    sizes = [len(t.before) + len(t.after) + len(t.target) + 25 * n for t, n in zip(texts, (1, 1, 1, 3), strict=True)]
    return examples, sizes


def test_samples_too_long_for_the_language_model_are_left_out_and_named(toy: Any) -> None:
    model = toy.build()
    examples, sizes = wordy(toy, model)
    # The longest that fits and the shortest that does not differ by one position.
    model.decoder.language_model.config.max_position_embeddings = limit = sizes[3] - 1
    assert max(sizes[0], sizes[2]) < limit < sizes[1]
    told = rf"sample 's4' takes {sizes[1]} positions, more than the {limit} of LlamaForCausalLM \(\d of 4 samples so"
    with pytest.warns(UserWarning, match=told) as caught:
        fit(model, examples, config(batch_size=4, steps=3), quiet=True)
    assert sum("are left out" in str(one.message) for one in caught) == 2, "each is named once"
    assert any(f"'s7' takes {sizes[3]}" in str(one.message) for one in caught)
    model.decoder.language_model.config.max_position_embeddings = sizes[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, examples, config(batch_size=4, steps=1, warmup=0), quiet=True)


def test_another_sample_comes_in_the_place_of_one_that_is_too_long_whatever_was_seen_before(toy: Any) -> None:
    model = toy.build()
    examples, sizes = wordy(toy, model)
    model.decoder.language_model.config.max_position_embeddings = sizes[3] - 1
    sampler = BatchSampler(4, 4, 11)

    def taken(first: int) -> list[list[int]]:
        shares = Shares(model, model.decoder, examples, sampler, 11)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [shares.take(step, 5).indices for step in range(first, 5)]

    stands_in = {0: 0, 1: 2, 2: 2, 3: 0}
    assert taken(0) == [[stands_in[index] for index in sampler.batch(step)] for step in range(5)]
    assert taken(3) == taken(0)[3:]


def test_too_many_samples_too_long_stop_the_run_before_anything_is_computed(toy: Any) -> None:
    model = toy.build()
    examples, sizes = wordy(toy, model)
    model.decoder.language_model.config.max_position_embeddings = sizes[3] - 1
    examples.broken.limit, before = 0.3, trained_state(model)
    with (
        pytest.raises(DataError, match=r"2 of 4 samples cannot be used, .*\(0.3\) allows .*; shorten their texts"),
        pytest.warns(UserWarning, match="1 of 4 samples"),
    ):
        fit(model, examples, config(batch_size=4), quiet=True)
    assert all(torch.equal(value, before[name]) for name, value in trained_state(model).items())
    model.decoder.language_model.config.max_position_embeddings = 3
    examples.broken.limit = 1.0
    with pytest.raises(DataError, match="none of 4 samples can be used"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(model, examples, config(batch_size=4), quiet=True)
