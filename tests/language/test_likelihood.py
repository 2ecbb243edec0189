"""The likelihood of a text as an answer, against whole sequences through the language model by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tove_core.errors import ConfigError, DataError
from tove_core.language.likelihood import likelihoods

FAMILIES = ["llama", "gpt2", "gemma2", "mamba"]


def by_hand(decoder, tokens, prompt, answer):
    """Log probability of every token of one answer and the ids that greedy search would write, without padding."""
    (text,) = decoder.encode([prompt], [answer])
    embed = decoder.language_model.get_input_embeddings()
    ids = torch.tensor([text.target])
    sides = [embed(torch.tensor([list(part)], dtype=torch.long)) for part in (text.before, text.after)]
    sequence = torch.cat([sides[0], decoder.projector(tokens), sides[1], embed(ids)], 1)
    with torch.no_grad():
        logits = decoder.language_model(inputs_embeds=sequence).logits[0, -ids.shape[1] - 1 : -1].float()
    return functional.log_softmax(logits, -1)[range(ids.shape[1]), ids[0]].tolist(), logits.argmax(-1), ids[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_sum_over_the_answers_tokens_in_a_batch_of_unequal_lengths(make, tokens, prompts, family):
    decoder, answers = make(family), ["two or three red circles", "a square", " red "]
    found = likelihoods(decoder, tokens, prompts, answers)
    ended = likelihoods(decoder, tokens, prompts, answers, end=True)
    for i, answer in enumerate(answers):
        values, greedy, ids = by_hand(decoder, tokens[i : i + 1], prompts[i], answer)
        assert found[i].log_probability == pytest.approx(sum(values[:-1]), abs=2e-4)
        assert ended[i].log_probability == pytest.approx(sum(values), abs=2e-4)
        assert (found[i].tokens, ended[i].tokens) == (len(ids) - 1, len(ids))
        assert found[i].greedy == bool((greedy == ids)[:-1].all())
    assert decoder.encode(prompts[2:], ["red"])[0].target == decoder.encode(prompts[2:], [" red "])[0].target


@pytest.mark.parametrize("kind", ["prefix", "cross-attention"])
def test_what_greedy_search_writes_is_greedy_and_other_texts_are_not(make, tokens, prompts, kind):
    decoder, wanted = make("gpt2", kind=kind, train="all"), ["two red circles", "a square", "three"]
    parameters = [p for group in decoder.trainable_parameters().values() for p in group]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        decoder(tokens, prompts, wanted).loss.backward()
        optimizer.step()
    assert decoder.generate(tokens, prompts) == wanted, "it has learned them"
    right = likelihoods(decoder, tokens, prompts, wanted, end=True)
    wrong = likelihoods(decoder, tokens, prompts, [wanted[1], wanted[2], wanted[0]])
    begun = likelihoods(decoder, tokens, prompts, ["two red", "a", "three"])
    assert all(one.greedy for one in right) and not any(one.greedy for one in wrong)
    assert all(a.log_probability > b.log_probability for a, b in zip(right, wrong, strict=True))
    assert all(one.greedy for one in begun), "greedy search goes through the beginning too"


def test_dropout_is_off_and_the_mode_is_as_before(make, tokens, prompts):
    decoder = make("gpt2", train="all").train()
    one, two = (likelihoods(decoder, tokens, prompts, ["red", "blue", "two"]) for _ in range(2))
    assert one == two and decoder.training and decoder.projector.training


def test_blank_answers_and_lists_that_do_not_fit_are_refused(make, tokens, prompts):
    decoder = make("llama")
    with pytest.raises(DataError, match=r"1 of 3 answers are blank \(first prompt: 'Describe the image.'\)"):
        likelihoods(decoder, tokens, prompts, ["red", "  ", "blue"])
    with pytest.raises(DataError, match="3 prompts came with 2 targets"):
        likelihoods(decoder, tokens, prompts, ["red", "blue"])


def test_room_is_what_the_positions_leave_behind_the_longest_prompt(make, tokens, prompts):
    decoder = make("llama")
    decoder.language_model.config.max_position_embeddings = 60
    room = decoder.room(tokens, prompts)
    longest = max(len(text.before) + len(text.after) for text in decoder.encode(prompts)) + tokens.shape[1]
    assert room == 60 - longest
    decoder.generate(tokens, prompts, max_new_tokens=room)
    with pytest.raises(ConfigError, match="exceeds the 60"):
        decoder.generate(tokens, prompts, max_new_tokens=room + 1)
    assert make("mamba").room(tokens, prompts) is None


@pytest.mark.parametrize("kind", ["prefix", "cross-attention"])
def test_the_length_of_a_text_is_that_of_its_row_in_a_batch(make, tokens, prompts, kind):
    decoder = make("gpt2", kind=kind)
    texts = decoder.encode(prompts, ["red", "a blue square", "two"][: len(prompts)])
    lengths = [decoder.length(text, tokens.shape[1]) for text in texts]
    rows = [decoder._assemble(tokens[:1], [text], "right").ids.shape[1] for text in texts]
    assert lengths == rows and len(set(lengths)) > 1
