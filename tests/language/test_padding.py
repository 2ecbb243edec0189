"""Batches of unequal length give what each sample gives alone."""

from __future__ import annotations

import pytest
import torch

FAMILIES = ["llama", "gpt2", "qwen2", "gpt_neox", "gemma2", "opt", "bert", "roberta", "mamba"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("template", ["{image}\n{prompt}\n", "{prompt} {image} answer:"])
def test_loss_in_a_batch_equals_loss_alone(make, tokens, prompts, targets, family, template):
    decoder = make(family, prompt=template)
    together = decoder(tokens, prompts, targets)
    for i in range(3):
        alone = decoder(tokens[i : i + 1], prompts[i : i + 1], targets[i : i + 1])
        torch.testing.assert_close(together.loss_per_sample[i], alone.loss_sum, rtol=1e-4, atol=1e-4)
        assert together.tokens_per_sample[i] == alone.token_count


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_in_a_batch_equals_generation_alone(make, tokens, prompts, family, beams):
    decoder = make(family, prompt="{prompt} {image} answer:")
    together = decoder.generate(tokens, prompts, num_beams=beams)
    alone = [decoder.generate(tokens[i : i + 1], prompts[i : i + 1], num_beams=beams)[0] for i in range(3)]
    assert together == alone


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_cross_attention_in_a_batch_equals_alone(make, tokens, prompts, targets, family, beams):
    decoder = make(family, kind="cross-attention")
    loss = decoder(tokens, prompts, targets).loss_per_sample
    together = decoder.generate(tokens, prompts, num_beams=beams)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(loss[one], decoder(tokens[one], prompts[one], targets[one]).loss_per_sample)
        assert decoder.generate(tokens[one], prompts[one], num_beams=beams) == together[one]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta", "mamba"])
def test_greedy_generation_equals_stepwise_argmax_of_forward(make, tokens, prompts, family):
    decoder = make(family)
    text = decoder.encode(prompts)[0]
    before, after = torch.tensor([text.before]).long(), torch.tensor([text.after])
    embed = decoder.language_model.get_input_embeddings()
    sequence = torch.cat([embed(before), decoder.projector(tokens[:1]), embed(after)], 1)
    ids: list[int] = []
    with torch.no_grad():
        for _ in range(7):
            ids.append(int(decoder.language_model(inputs_embeds=sequence).logits[0, -1].argmax()))
            sequence = torch.cat([sequence, embed(torch.tensor([ids[-1:]]))], 1)
    assert decoder.generate(tokens[:1], prompts[:1]) == [decoder.layout.decode(ids)]
