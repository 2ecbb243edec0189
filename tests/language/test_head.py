"""Logits are computed of what predicts an answer token, and of nothing else."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tove_core.language.batch import assemble
from tove_core.language.prompt import EncodedText

TEXTS = [
    EncodedText((9,), (8, 7), (5, 1)),
    EncodedText((), tuple(range(20, 37)), (4, 3, 6, 1)),
    EncodedText((2,), tuple(range(40, 52)), (1,)),
]
ANSWERS, COLUMNS = 7, 6
CASES = [
    ("llama", {"train": "all"}),
    ("gpt2", {"train": "all"}),  # the head is the embedding
    ("gemma2", {"train": "all"}),  # caps its logits
    ("bert", {"train": "all"}),
    ("mamba", {"train": "all"}),
    ("llama", {"train": "lora", "lora": {"rank": 2, "targets": ["q_proj", "lm_head"]}}),
    ("gpt2", {"train": "cross-attention", "kind": "cross-attention"}),
    ("bert", {"train": "all", "kind": "cross-attention"}),
]


class Largest(TorchDispatchMode):
    """Notes how many rows of logits the largest tensor has, the backward pass included; `head` is no such tensor."""

    def __init__(self, head: torch.Tensor) -> None:
        super().__init__()
        self.vocabulary, self.rows, self.weight = head.shape[0], 0, head.T.shape

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        logits = isinstance(made, torch.Tensor) and made.ndim > 1 and made.shape[-1] == self.vocabulary
        if logits and made.shape != self.weight:
            self.rows = max(self.rows, made.numel() // self.vocabulary)
        return made


def asked(decoder, tokens):
    return [tokens, *(p for group in decoder.trainable_parameters().values() for p in group)]


def whole(decoder, tokens, texts):
    """Return the loss by logits of every place, sample by sample, so that nothing is padded either."""
    model, losses = decoder.language_model, []
    for row, text in enumerate(texts):
        batch = assemble([text], image=decoder._positions(tokens.shape[1]), pad=decoder.pad)
        if decoder.config.kind == "prefix":
            given = {"inputs_embeds": decoder._embed(tokens[row : row + 1], batch)}
        else:
            given = {"input_ids": batch.ids, "encoder_hidden_states": decoder._states(tokens[row : row + 1])}
        size = len(text.target)
        logits = model(**given, use_cache=False).logits[0, -size - 1 : -1]
        losses.append(functional.cross_entropy(logits, torch.tensor(text.target), reduction="sum"))
    return torch.stack(losses)


@pytest.mark.parametrize("selects", [True, False])
@pytest.mark.parametrize(("family", "settings"), CASES)
def test_loss_and_gradients_are_those_of_all_logits_and_only_the_answers_are_made(make, family, settings, selects):
    decoder = make(family, **settings)
    decoder._selects = decoder._selects and selects
    with torch.no_grad():
        for name, parameter in decoder.language_model.named_parameters():
            if "lora_B" in name:  # zero until it is trained
                parameter.normal_(0, 0.1)
    tokens = torch.randn(3, 5, decoder.width, generator=torch.Generator().manual_seed(6)).requires_grad_()
    with Largest(decoder.language_model.get_output_embeddings().weight) as seen:
        ours = decoder(tokens, TEXTS)
        left = torch.autograd.grad(ours.loss_sum, asked(decoder, tokens), allow_unused=True)
    theirs = whole(decoder, tokens, TEXTS)
    right = torch.autograd.grad(theirs.sum(), asked(decoder, tokens), allow_unused=True)
    assert ours.logits.shape == (ANSWERS, decoder.vocabulary) and seen.rows == ANSWERS < 3 * COLUMNS
    torch.testing.assert_close(ours.loss_per_sample, theirs, rtol=1e-4, atol=1e-4)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    head = decoder.language_model.get_output_embeddings()
    assert not head._forward_pre_hooks


@pytest.mark.parametrize("how", ["none", "pieces", "own"])
def test_a_language_model_that_computes_its_logits_otherwise_gives_the_same(make, monkeypatch, how):
    decoder = make("llama")
    tokens = torch.randn(3, 5, decoder.width, generator=torch.Generator().manual_seed(6))
    wanted = decoder(tokens, TEXTS)
    model, head = decoder.language_model, decoder.language_model.lm_head
    if how == "none":
        monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    elif how == "pieces":  # the head is called with some places at a time
        plain = head.__class__.forward

        class InPieces(torch.nn.Module):
            def forward(self, states):
                return torch.cat([head(part) for part in states.split(2, 1)], 1)

        assert plain is torch.nn.Linear.forward
        model.lm_head = InPieces()
        monkeypatch.setattr(model, "get_output_embeddings", lambda: head)
    else:  # its weight is used and the head itself is not called
        own = torch.nn.Module()
        own.forward = lambda states: functional.linear(states, head.weight)
        model.lm_head = own
        monkeypatch.setattr(model, "get_output_embeddings", lambda: head)
    found = decoder(tokens, TEXTS)
    torch.testing.assert_close(found.logits, wanted.logits)
    torch.testing.assert_close(found.loss_per_sample, wanted.loss_per_sample)


def test_another_thread_sees_the_language_model_as_it_is(make):
    decoder = make("llama")
    tokens = torch.randn(3, 5, decoder.width, generator=torch.Generator().manual_seed(6))
    wanted, answers = decoder(tokens, TEXTS).logits, []
    alone = decoder.generate(tokens, TEXTS)
    layer, waiting = decoder.language_model.model.layers[0], [True]

    def meanwhile(*_):
        if waiting:
            waiting.clear()
            thread = threading.Thread(target=lambda: answers.append(decoder.generate(tokens, TEXTS)))
            thread.start()
            thread.join()

    layer.register_forward_pre_hook(meanwhile)
    assert torch.equal(decoder(tokens, TEXTS).logits, wanted)
    assert answers == [alone]
