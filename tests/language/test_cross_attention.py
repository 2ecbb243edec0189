from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig

from tove_core.config import DecoderConfig
from tove_core.errors import ConfigError
from tove_core.language.batch import assemble
from tove_core.language.cross_attention import CrossAttentionDecoder, cross_attention_parameters

FAMILIES = ["bert", "roberta", "gpt2"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("train", ["none", "cross-attention", "all"])
def test_training_changes_what_it_should_and_nothing_else(make, tokens, prompts, targets, family, train):
    decoder = make(family, kind="cross-attention", train=train).train()
    before = {name: p.detach().clone() for name, p in decoder.named_parameters()}
    groups = decoder.trainable_parameters()
    optimizer = torch.optim.SGD([p for group in groups.values() for p in group], lr=0.1)
    decoder(tokens, prompts, targets).loss.backward()
    optimizer.step()
    changed = {name for name, p in decoder.named_parameters() if not torch.equal(p, before[name])}
    stem = "language_model."
    projector = {name for name in before if not name.startswith(stem)}
    cross = {stem + name for name in cross_attention_parameters(decoder.language_model.config)}
    assert projector <= changed
    if train == "all":
        assert changed & cross and changed - cross - projector
    else:
        assert changed - projector <= (cross if train == "cross-attention" else set())
        assert bool(changed & cross) == (train == "cross-attention")


@pytest.mark.parametrize("family", FAMILIES)
def test_only_cross_attention_has_dropout_when_only_it_is_trained(make, family):
    decoder = make(family, kind="cross-attention", train="cross-attention").train()
    training = {name for name, module in decoder.language_model.named_modules() if module.training}
    assert training
    assert all("cross" in name for name in training)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_equals_that_of_the_language_model(make, tokens, prompts, targets, family):
    decoder = make(family, kind="cross-attention")
    out = decoder(tokens, prompts, targets)
    batch = assemble(decoder.encode(prompts, targets), image=0, pad=decoder.pad)
    theirs = decoder.language_model(
        input_ids=batch.ids,
        attention_mask=batch.attention_mask,
        encoder_hidden_states=decoder.projector(tokens),
        labels=batch.labels,
    ).loss
    torch.testing.assert_close(out.loss, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_generation_equals_stepwise_argmax(make, tokens, prompts, family):
    decoder = make(family, kind="cross-attention")
    text = decoder.encode(prompts)[0]
    ids = [*text.before, *text.after]
    states = decoder.projector(tokens[:1])
    for _ in range(7):
        out = decoder.language_model(torch.tensor([ids]), encoder_hidden_states=states)
        ids.append(int(out.logits[0, -1].argmax()))
    answer = ids[-7:]
    assert decoder.generate(tokens[:1], prompts[:1]) == [decoder.layout.decode(answer)]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_depend_on_the_image(make, tokens, prompts, targets, family):
    decoder = make(family, kind="cross-attention")
    other = decoder(tokens.flip(0), prompts, targets).loss_per_sample
    assert abs(decoder(tokens, prompts, targets).loss_per_sample - other)[0] > 1e-3


def test_an_empty_prompt_has_a_token_to_start_from(make, tokens):
    decoder = make("gpt2", kind="cross-attention", prompt="{image}{prompt}")
    assert decoder.encode([""])[0].before == (0,)
    assert torch.isfinite(decoder(tokens[:1], [""], ["two"]).loss)


def test_language_models_without_cross_attention_are_refused(make, model_of, tokenizer):
    with pytest.raises(ConfigError, match="'llama' language models have no cross-attention"):
        cross_attention_parameters(LlamaConfig())
    config = DecoderConfig(name="tiny", kind="cross-attention")
    with pytest.raises(ConfigError, match="built without cross-attention"):
        CrossAttentionDecoder(model_of("gpt2", tokenizer), tokenizer, config, 11)
