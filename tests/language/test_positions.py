from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tove_core.errors import ConfigError
from tove_core.language.positions import first_position, position_ids


def test_roberta_begins_behind_its_padding_token_and_others_at_0(model_of, tokenizer):
    assert first_position(model_of("roberta", tokenizer)) == 3
    assert [first_position(model_of(family, tokenizer)) for family in ("bert", "gpt2", "opt", "llama")] == [0] * 4


def test_padding_on_either_side_takes_no_number():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert position_ids(mask, 0) == {}
    found = position_ids(mask, 3)["position_ids"]
    assert found[mask.bool()].tolist() == [3, 4, 5, 3, 4, 5]
    assert found.min() == 3


def test_positions_told_are_those_that_roberta_counts_itself(model_of, tokenizer):
    model = model_of("roberta", tokenizer).eval()
    ids = torch.arange(14).view(2, 7) * 19 % 250 + 5
    told = position_ids(torch.ones_like(ids), first_position(model))
    with torch.no_grad():
        torch.testing.assert_close(model(ids, **told).logits, model(ids).logits, rtol=0, atol=0)
        assert not torch.allclose(model(ids, position_ids=torch.arange(7)[None]).logits, model(ids).logits)


def test_what_positions_begin_with_is_taken_from_the_longest_sequence(make, tokens):
    decoder = make("roberta", kind="cross-attention", prompt="{image}{prompt}")
    limit = decoder.language_model.config.max_position_embeddings
    length = len(decoder.encode([""], ["two"])[0].target)
    text = decoder.encode([""], ["two"])[0]
    room = limit - 3 - len(text.before) - len(text.after) - length
    fits = replace(text, before=text.before + (9,) * room)
    assert torch.isfinite(decoder(tokens[:1], [fits]).loss)
    with pytest.raises(ConfigError, match=f"of {limit - 2} positions exceeds the {limit - 3} of RobertaForCausalLM"):
        decoder(tokens[:1], [replace(fits, before=(*fits.before, 9))])
