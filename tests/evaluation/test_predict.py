from __future__ import annotations

from dataclasses import replace

import pytest

from tove_core.errors import DataError
from tove_core.evaluation.predict import predict, predict_batches
from tove_core.training.examples import Examples
from tove_core.training.run import prepare


def test_questions_too_long_for_the_language_model_are_counted_before_anything_is_computed(toy):
    model, samples = toy.build(), toy.samples()
    prepare(model, samples)
    samples[4] = replace(samples[4], prompt="is it black? " * 20)
    samples[7] = replace(samples[7], image=samples[7].images * 2)
    examples = Examples(model, samples)
    lengths = {
        i: model.decoder.length(replace(text, target=()), 25 * len(examples.rows[i])) + 3
        for i, text in enumerate(model.decoder.encode(examples.prompts(range(12)), None))
    }
    assert lengths[4] > lengths[7] > max(size for i, size in lengths.items() if i not in (4, 7))
    config = model.decoder.language_model.config
    config.max_position_embeddings = lengths[7] - 1
    with pytest.raises(DataError, match=r"^2 of 12 samples \('s4', 's7'\) exceed the \d+ positions of Llama.* 3 new"):
        next(predict_batches(model, examples, batch_size=1, max_new_tokens=3))
    config.max_position_embeddings = lengths[4] - 1
    with pytest.raises(DataError, match=r"^1 of 12 samples \('s4'\)"):
        predict(model, examples, max_new_tokens=3)
    config.max_position_embeddings = lengths[4]
    assert len(predict(model, examples, max_new_tokens=3)) == 12
