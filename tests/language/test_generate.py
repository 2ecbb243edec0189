from __future__ import annotations

import itertools
import threading

import pytest
import torch
from transformers import TextIteratorStreamer

from tove_core.errors import ConfigError, DataError

KINDS = [("llama", "prefix"), ("gpt2", "cross-attention"), ("bert", "cross-attention"), ("roberta", "cross-attention")]


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_streamed_pieces_join_to_the_whole_text(make, tokens, family, kind):
    decoder = make(family, kind=kind, max_new_tokens=23)
    for i, seed in enumerate((1, 2, 3)):
        options = {"do_sample": True, "temperature": 1.5, "seed": seed}
        whole = decoder.generate(tokens[i : i + 1], ["how many?"], **options)[0]
        pieces = list(decoder.stream(tokens[i : i + 1], "how many?", **options))
        assert "".join(pieces) == whole
        assert whole


def test_streaming_gives_text_in_more_than_one_piece(make, tokens):
    decoder = make("llama", max_new_tokens=40)
    assert len(list(decoder.stream(tokens[:1], "how many?", do_sample=True, seed=1))) > 1


def test_errors_while_streaming_reach_the_reader(make, tokens):
    decoder = make("llama")
    with pytest.raises(DataError, match="marks 2 places for images, but 5 tokens cannot be shared"):
        list(decoder.stream(tokens[:1], "<image> or <image>"))


@pytest.mark.parametrize("leave", ["close", "let go"])
def test_a_stream_that_is_left_ends_at_its_next_token(make, tokens, leave):
    decoder, seen = make("llama", max_new_tokens=400), []
    decoder.language_model.generation_config.eos_token_id = None
    go_on = threading.Event()

    def wait(ids, scores):  # after three tokens nothing comes before the reader has left
        seen.append(len(seen))
        assert len(seen) <= 3 or go_on.wait(60)
        scores[:] = 0
        scores[:, letters[len(seen) % 2]] = 9
        return scores

    letters = decoder.tokenizer.convert_tokens_to_ids(["Ġ", "x"])
    pieces = decoder.stream(tokens[:1], "how many?", logits_processor=[wait])
    assert next(pieces) == "x "
    (thread,) = [one for one in threading.enumerate() if one.name == "tove-stream"]
    if leave == "close":
        pieces.close()
    del pieces
    go_on.set()
    thread.join(60)
    assert not thread.is_alive() and len(seen) <= 5
    assert len(decoder.generate(tokens[:1], ["how many?"], max_new_tokens=9)) == 1


def test_streamers_of_transformers_work(make, tokens, tokenizer):
    decoder = make("llama")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    whole = decoder.generate(tokens[:1], ["how many?"], streamer=streamer)[0]
    assert "".join(streamer).strip() == whole


def test_sampling_repeats_with_its_seed_and_leaves_the_global_generator_alone(make, tokens, prompts):
    decoder = make("llama", max_new_tokens=12)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = decoder.generate(tokens, prompts, do_sample=True, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert decoder.generate(tokens, prompts, do_sample=True, seed=7) == first
    assert decoder.generate(tokens, prompts, do_sample=True, seed=8) != first


def test_a_very_narrow_top_p_is_greedy(make, tokens, prompts):
    decoder = make("gpt2")
    assert decoder.generate(tokens, prompts, do_sample=True, top_p=1e-6, seed=3) == decoder.generate(tokens, prompts)


def test_generation_defaults_of_the_language_model_do_not_leak_in(make, model_of, tokenizer, tokens, prompts):
    plain = make("llama")
    model = model_of("llama", tokenizer)
    model.generation_config.update(do_sample=True, repetition_penalty=9.0, max_length=3, temperature=4.0)
    coloured = type(plain)(model, tokenizer, plain.config, plain.width)
    coloured.projector.load_state_dict(plain.projector.state_dict())
    assert coloured.generate(tokens, prompts) == plain.generate(tokens, prompts)


def test_length_is_the_number_of_new_tokens(make, tokens, prompts, tokenizer):
    decoder = make("gpt2", max_new_tokens=5)
    decoder.language_model.generation_config.eos_token_id = None
    sizes: list[int] = []
    decoder.layout.decode = lambda ids: str(sizes.append(len(ids)))
    decoder.generate(tokens, prompts)
    decoder.generate(tokens, prompts, max_new_tokens=9)
    assert sizes == [5] * 3 + [9] * 3


def test_generation_is_without_dropout_and_restores_the_mode(make, tokens, prompts):
    decoder = make("gpt2", train="all").train()
    assert decoder.generate(tokens, prompts) == decoder.eval().generate(tokens, prompts)
    decoder.train()
    decoder.generate(tokens, prompts)
    assert decoder.language_model.training


@pytest.mark.parametrize(
    ("option", "near"),
    [("max_tokens", "max_new_tokens"), ("beams", "num_beams"), ("repetition_penality", "repetition_penalty")],
)
def test_a_misspelt_option_is_answered_with_the_nearest_one(make, tokens, option, near):
    decoder = make("llama")
    with pytest.raises(ConfigError, match=f"^there is no generation option '{option}'; did you mean '{near}'"):
        decoder.generate(tokens[:1], ["how many?"], **{option: 3})
    with pytest.raises(ConfigError, match="there is no generation option 'zzz'; tove's own are max_new_tokens"):
        decoder.generate(tokens[:1], ["how many?"], zzz=3)


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_options_of_transformers_reach_it(make, tokens, family, kind):
    decoder = make(family, kind=kind, max_new_tokens=12)
    logits = []
    spy = lambda ids, scores: logits.append(len(ids)) or scores  # noqa: E731
    said = decoder.generate(
        tokens[:1], ["how many?"], min_new_tokens=7, no_repeat_ngram_size=2, repetition_penalty=1.2,
        logits_processor=[spy], use_cache=True,
    )  # fmt: skip
    assert said and len(logits) >= 7


def test_contradicting_options_are_refused(make, tokens, prompts):
    decoder = make("llama")
    with pytest.raises(ConfigError, match="do_sample is off"):
        decoder.generate(tokens, prompts, temperature=0.5)
    with pytest.raises(ConfigError, match="stream one image"):
        decoder.generate(tokens, prompts, streamer=object())
    with pytest.raises(DataError, match="prompts is empty"):
        decoder.generate(tokens, [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; give a whole number, at least 1"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
        ({"max_new_tokens": "3"}, "max_new_tokens is '3'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"num_beams": 0}, "num_beams is 0; give a whole number, at least 1"),
        (
            {"do_sample": True, "temperature": 0},
            "temperature is 0; give a number above 0, or leave it and do_sample out",
        ),
        ({"do_sample": True, "temperature": float("nan")}, "temperature is nan"),
        ({"do_sample": True, "top_p": 1.5}, "top_p is 1.5; give a number from 0 to 1"),
        ({"do_sample": True, "top_k": -1}, "top_k is -1; give a whole number, at least 0"),
        ({"num_return_sequences": 3, "do_sample": True}, "num_return_sequences is 3, but .* one text for each image"),
        ({"num_return_sequences": 3, "num_beams": 3}, "num_return_sequences is 3, but .* one text for each image"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate is True, but"),
        ({"output_scores": 1}, "output_scores is 1, but"),
        ({"output_hidden_states": True}, "output_hidden_states is True, but"),
        ({"repetition_penalty": -1.0}, r"transformers does not generate with repetition_penalty=-1.0 \("),
        ({"early_stopping": "x", "num_beams": 2}, r"does not generate with early_stopping='x' \("),
    ],
)
@pytest.mark.parametrize(("family", "kind"), KINDS[:2])
def test_options_that_no_text_can_come_of_are_refused_in_one_sentence(
    make, tokens, prompts, family, kind, options, words
):
    decoder = make(family, kind=kind)
    with pytest.raises(ConfigError, match=words) as caught:
        decoder.generate(tokens, prompts, **options)
    assert "\n" not in str(caught.value) and decoder.training is False


def test_options_that_ask_for_one_text_are_no_fault(make, tokens, prompts):
    decoder = make("llama")
    quiet = {"num_return_sequences": 1, "return_dict_in_generate": False, "output_scores": None}
    assert decoder.generate(tokens, prompts, **quiet) == decoder.generate(tokens, prompts)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (None, "a prompt is None, but a text is wanted"),
        (3, "a prompt is 3, but a text is wanted"),
        ("how \ud800?", r"prompt 'how \\ud800\?' has half a character \(\\ud800, a lone surrogate\) at place 4"),
    ],
)
def test_what_is_no_text_is_refused_as_a_prompt_and_as_a_target(make, tokens, prompt, words):
    decoder = make("llama")
    for ask in (
        lambda: decoder.generate(tokens[:2], ["how many?", prompt]),
        lambda: list(decoder.stream(tokens[:1], prompt)),
        lambda: decoder(tokens[:1], [prompt], ["two"]),
    ):
        with pytest.raises(DataError, match=words):
            ask()
    with pytest.raises(DataError, match=words.replace("prompt", "target")):
        decoder(tokens[:1], ["how many?"], [prompt])


@pytest.mark.parametrize(("family", "kind"), KINDS[:2])
def test_a_stop_string_ends_an_answer_and_stays_in_it(make, tokens, prompts, family, kind):
    decoder, step = make(family, kind=kind, max_new_tokens=5), itertools.count()
    letters = decoder.tokenizer.convert_tokens_to_ids(list("abcdefgh"))

    def spell(ids, scores):  # abcde, bcdef, cdefg
        first = next(step)
        for row, score in enumerate(scores.fill_(0)):
            score[letters[first + row]] = 9
        return scores

    assert decoder.generate(tokens, prompts, stop_strings=["d"], logits_processor=[spell]) == ["abcd", "bcd", "cd"]


def test_padding_is_no_part_of_an_answer_in_any_batch(make, tokens, prompts, tokenizer):
    decoder = make("llama", max_new_tokens=23)
    decoder.language_model.generation_config.eos_token_id = None
    rows = []
    decode, decoder.layout.decode = decoder.layout.decode, lambda ids: rows.append(ids) or decode(ids)
    decoder.generate(tokens, prompts)
    end = rows[0][4]  # ends the first answer long before its time, unless it is said earlier
    together = decoder.generate(tokens, prompts, eos_token_id=end)
    alone = [decoder.generate(tokens[i : i + 1], prompts[i : i + 1], eos_token_id=end)[0] for i in range(3)]
    assert together == alone
    assert decoder.generate(tokens, prompts, eos_token_id=end, pad_token_id=tokenizer.eos_token_id) == together
    with pytest.raises(ConfigError, match="pad_token_id is 10, which is no special token"):
        decoder.generate(tokens, prompts, eos_token_id=end, pad_token_id=10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 3}, "max_length counts the prompt too and is ignored; give max_new_tokens"),
        ({"min_p": 0.2}, "min_p shapes sampling but do_sample is off"),
        ({"typical_p": 0.2}, "typical_p shapes sampling but do_sample is off"),
        ({"eta_cutoff": 0.2}, "eta_cutoff shapes sampling but do_sample is off"),
    ],
)
def test_options_that_transformers_would_ignore_are_refused(make, tokens, prompts, options, words):
    decoder = make("llama")
    with pytest.raises(ConfigError, match=words):
        decoder.generate(tokens, prompts, **options)
    assert decoder.generate(tokens, prompts, min_p=None, typical_p=1.0) == decoder.generate(tokens, prompts)
    if "min_p" in options:
        assert len(decoder.generate(tokens, prompts, do_sample=True, seed=1, **options)) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nothing_is_said_about_tokens_that_are_not_finite(make, tokens, prompts, value):
    tokens[1, 3, 2] = value
    with pytest.raises(DataError, match=r"1 of 3 samples hold values that are not finite \(the first: 1, from 0"):
        make("llama").generate(tokens, prompts)
