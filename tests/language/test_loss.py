"""The loss is the cross-entropy of answer tokens and of nothing else."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tove_core.errors import ConfigError, DataError
from tove_core.language.batch import IGNORE, assemble
from tove_core.language.prompt import EncodedText

FAMILIES = ["llama", "gpt2", "gemma2", "bert", "roberta", "mamba"]


def own_loss(decoder, tokens, prompts, targets, labelled=None):
    """The plain route: whole sequences into the language model, its own loss."""
    texts = decoder.encode(prompts, targets)
    batch = assemble(texts, image=tokens.shape[1], pad=decoder.pad)
    labels = batch.labels if labelled is None else labelled
    embeddings = decoder._embed(tokens, batch)
    return decoder.language_model(inputs_embeds=embeddings, attention_mask=batch.attention_mask, labels=labels).loss


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("selects", [True, False])
def test_loss_and_gradients_equal_those_of_the_language_model(make, tokens, prompts, targets, family, selects):
    decoder = make(family, train="all")
    decoder._selects = decoder._selects and selects
    ours = decoder(tokens, prompts, targets)
    theirs = own_loss(decoder, tokens, prompts, targets)
    torch.testing.assert_close(ours.loss, theirs)
    parameters = [p for group in decoder.trainable_parameters().values() for p in group]
    left = torch.autograd.grad(ours.loss, parameters, allow_unused=True)
    right = torch.autograd.grad(theirs, parameters, allow_unused=True)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_each_term_is_the_log_probability_of_an_answer_token(make, tokens):
    decoder = make("llama", prompt="{image}{prompt}")
    text = decoder.encode(["red"], ["two circles"])[0]
    out = decoder(tokens[:1], [text])
    embed = decoder.language_model.get_input_embeddings()
    answer = torch.tensor([text.target])
    parts = [embed(torch.tensor([text.before])), decoder.projector(tokens[:1]), embed(torch.tensor([text.after]))]
    sequence = torch.cat([*parts, embed(answer)], 1)
    logp = functional.log_softmax(decoder.language_model(inputs_embeds=sequence).logits, -1)
    first = sequence.shape[1] - answer.shape[1]
    by_hand = -sum(logp[0, first + t - 1, token] for t, token in enumerate(text.target))
    torch.testing.assert_close(out.loss_sum, by_hand)
    assert out.token_count == len(text.target)
    torch.testing.assert_close(functional.cross_entropy(out.logits, out.targets, reduction="sum"), out.loss_sum)


def test_prompt_and_image_have_no_labels_and_the_end_token_has_one():
    texts = [EncodedText((9,), (8, 7), (5, 1)), EncodedText((), (6,), (4, 3, 1))]
    batch = assemble(texts, image=3, pad=0)
    assert batch.labels.tolist() == [
        [IGNORE] * 6 + [5, 1],
        [IGNORE] * 4 + [4, 3, 1, IGNORE],
    ]
    assert batch.ids.tolist() == [[9, 0, 0, 0, 8, 7, 5, 1], [0, 0, 0, 6, 4, 3, 1, 0]]
    assert batch.image_mask.tolist()[1] == [True] * 3 + [False] * 5
    assert batch.columns.tolist() == [3, 4, 5, 6]


def test_left_padding_lies_before_everything():
    batch = assemble([EncodedText((9,), (8, 7)), EncodedText((), ())], image=2, pad=0, side="left")
    assert batch.attention_mask.tolist() == [[1] * 5, [0, 0, 0, 1, 1]]
    assert batch.image_mask.tolist() == [[False, True, True, False, False], [False, False, False, True, True]]
    assert not len(batch.answer)


def test_sums_add_up_over_batches(make, tokens, prompts, targets):
    decoder = make("gpt2")
    whole = decoder(tokens, prompts, targets)
    parts = [decoder(tokens[s], prompts[s], targets[s]) for s in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(sum(p.loss_sum for p in parts), whole.loss_sum)
    assert sum(p.token_count for p in parts) == whole.token_count == whole.tokens_per_sample.sum()


def test_gradient_reaches_tokens_and_projector_but_not_a_frozen_language_model(make, tokens, prompts, targets):
    decoder = make("llama").train()
    tokens.requires_grad_()
    decoder(tokens, prompts, targets).loss.backward()
    assert tokens.grad is not None
    assert (tokens.grad.abs().amax((1, 2)) > 0).all()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.projector.parameters())
    assert all(p.grad is None for p in decoder.language_model.parameters())
    assert decoder.trainable_parameters()["language_model"] == []


def test_a_frozen_language_model_stays_without_dropout_while_training(make, tokens, prompts, targets):
    decoder = make("gpt2").train()
    assert decoder.training and decoder.projector.training
    assert not any(module.training for module in decoder.language_model.modules())
    first, second = decoder(tokens, prompts, targets), decoder(tokens, prompts, targets)
    assert torch.equal(first.loss_sum, second.loss_sum)
    trained = make("gpt2", train="all").train()
    assert all(module.training for module in trained.language_model.modules())
    assert not torch.equal(trained(tokens, prompts, targets).loss_sum, trained(tokens, prompts, targets).loss_sum)


def test_encoded_texts_give_the_same_as_strings(make, tokens, prompts, targets):
    decoder = make("llama")
    encoded = decoder.encode(prompts, targets)
    assert torch.equal(decoder(tokens, encoded).loss_sum, decoder(tokens, prompts, targets).loss_sum)
    assert decoder.generate(tokens, encoded) == decoder.generate(tokens, prompts)


def test_bfloat16_language_model_takes_float32_tokens(make, tokens, prompts, targets):
    decoder = make("llama")
    exact = decoder(tokens, prompts, targets).loss
    decoder.language_model.to(torch.bfloat16)
    out = decoder(tokens, prompts, targets)
    assert out.loss_sum.dtype == torch.float32
    torch.testing.assert_close(out.loss, exact, rtol=0.05, atol=0.05)


def test_bad_batches_are_refused(make, tokens, prompts, targets):
    decoder = make("gpt2", kind="prefix")
    with pytest.raises(ConfigError, match=r"wants \[B, N, 11\]"):
        decoder(tokens[..., :-1], prompts, targets)
    with pytest.raises(ConfigError, match=r"wants \[B, N, 11\]"):
        decoder(tokens[0], prompts, targets)
    with pytest.raises(DataError, match="2 prompts came with 3 images"):
        decoder(tokens, prompts[:2], targets[:2])
    with pytest.raises(DataError, match="list of prompts is empty"):
        decoder(tokens[:0], [], [])
    with pytest.raises(DataError, match=r"prompts are .how many"):
        decoder(tokens, "how many?", targets)
    with pytest.raises(DataError, match="no target to learn"):
        decoder(tokens, prompts)
    with pytest.raises(DataError, match="encoded texts came with strings"):
        decoder(tokens, decoder.encode(prompts), targets)
    with pytest.raises(ConfigError, match=r"exceeds the 1024 of GPT2LMHeadModel"):
        decoder(tokens[:1], ["circle " * 1100], ["two"])


def test_ids_the_language_model_does_not_know_are_refused(make, make_tokenizer, model_of, tokens):
    decoder = make("llama")
    stranger = make_tokenizer()
    stranger.add_tokens(["circlesquare"])
    mixed = type(decoder)(model_of("llama", make_tokenizer()), stranger, decoder.config, decoder.width)
    with pytest.raises(ConfigError, match="use the tokenizer that belongs to it"):
        mixed(tokens[:1], ["circlesquare"], ["two"])
