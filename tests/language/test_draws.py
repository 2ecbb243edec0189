from __future__ import annotations

import sys
import threading

import pytest
import torch
from transformers import GenerationConfig

from tove_core.errors import ConfigError
from tove_core.language.draws import Draws, OwnDraws

ONE = {"do_sample": True, "top_p": 0.95}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.4, "top_k": 9, "top_p": 0.8},
        {"min_p": 0.01},
        {"typical_p": 0.7},
        {"eta_cutoff": 1e-3},
        {"epsilon_cutoff": 1e-3, "repetition_penalty": 1.2},
        {"num_beams": 3},
        {"renormalize_logits": True},
    ],
)
def test_own_draws_are_those_of_the_global_generator_with_that_seed(model_of, tokenizer, options):
    model = model_of("llama", tokenizer).eval()
    ids = torch.randint(4, 300, (2, 5), generator=torch.Generator().manual_seed(1))
    kinds: set[type] = set()
    model.register_forward_pre_hook(lambda *call: kinds.update(map(type, call[-1].values())), with_kwargs=True)
    config = GenerationConfig(do_sample=True, max_new_tokens=9, pad_token_id=1, **{"top_k": 0, **options})
    torch.manual_seed(7)
    wanted = model.generate(ids, config)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = model.generate(ids, config, logits_processor=[OwnDraws(Draws(7))])
    assert torch.equal(found, wanted) and type(found) is torch.Tensor
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(issubclass(kind, torch.Tensor) and kind is not torch.Tensor for kind in kinds)
    assert not torch.equal(model.generate(ids, config, logits_processor=[OwnDraws(Draws(8))]), wanted)


def test_tokens_guessed_ahead_are_drawn_by_the_seed_too(make, tokens):
    decoder = make("llama", max_new_tokens=12)
    ask = {"do_sample": True, "seed": 5, "prompt_lookup_num_tokens": 2}
    before = torch.get_rng_state()
    first = decoder.generate(tokens[:1], ["how many many many many?"], **ask)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert decoder.generate(tokens[:1], ["how many many many many?"], **ask) == first


def test_threads_draw_what_each_would_alone(make, tokens, prompts):
    decoder = make("llama", max_new_tokens=12)
    alone = [decoder.generate(tokens, prompts, seed=seed, **ONE) for seed in range(8)]
    said: list = [None] * 8

    def work(first: int) -> None:
        for seed in range(first, 8, 4):
            said[seed] = decoder.generate(tokens, prompts, seed=seed, **ONE)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert said == alone and len({tuple(texts) for texts in said}) > 1


def test_a_reader_that_draws_while_a_stream_runs_changes_neither(make, tokens):
    decoder = make("llama", max_new_tokens=40)
    whole = decoder.generate(tokens[:1], ["how many?"], do_sample=True, seed=1)[0]
    torch.manual_seed(5)
    wanted = torch.rand(200).tolist()
    torch.manual_seed(5)
    pieces, drawn = [], []
    for piece in decoder.stream(tokens[:1], "how many?", do_sample=True, seed=1):
        pieces.append(piece)
        drawn.append(torch.rand(1).item())
    assert "".join(pieces) == whole and len(drawn) > 1 and drawn == wanted[: len(drawn)]


def test_draws_go_on_from_call_to_call(make, tokens):
    decoder, draws = make("llama", max_new_tokens=12), Draws(3)
    first, second = (decoder.generate(tokens, ["how many?"] * 3, do_sample=True, seed=draws) for _ in range(2))
    assert first == decoder.generate(tokens, ["how many?"] * 3, do_sample=True, seed=3) and second != first


def test_processors_that_are_given_come_before_the_draws(make, tokens):
    decoder, seen = make("llama", max_new_tokens=3), []
    note = lambda ids, scores: seen.append(type(scores)) or scores  # noqa: E731
    decoder.generate(tokens[:1], ["how many?"], seed=1, logits_processor=[note], **ONE)
    assert seen and set(seen) == {torch.Tensor}


@pytest.mark.parametrize("seed", ["1", 1.5, True, -1, 2**32])
def test_a_seed_that_is_no_whole_number_is_refused(make, tokens, seed):
    with pytest.raises(ConfigError, match=r"^seed is .*; give a whole number"):
        make("llama").generate(tokens[:1], ["how many?"], do_sample=True, seed=seed)
