"""The tokenizer has a token for each word of the world and loses no other text."""

from __future__ import annotations

import re

import open_clip
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tove_core.demo.shipped import asset
from tove_core.demo.tokenizer import CONTEXT, VOCABULARY, texts, train

ODD = ["héllo wörld", "日本語 🎉\n\t tabs", " a  b ", "", "x" * 70, "Ω≈ç√ 'quoted' <eo s>"]


@pytest.fixture(scope="module")
def language() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(asset("tokenizer"))


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train()


def test_training_again_gives_the_shipped_tokenizer(trained: Tokenizer, language: PreTrainedTokenizerFast) -> None:
    assert trained.get_vocab() == language.get_vocab()
    assert trained.get_vocab_size() <= VOCABULARY


def test_every_word_of_the_world_is_one_token(trained: Tokenizer) -> None:
    words = {word for text in texts() for word in re.findall(r" ?[a-z]+| ?\d|[?.,:]", text)}
    assert len(words) > 80
    assert {word for word in words if len(trained.encode(word).ids) != 1} == set()


@pytest.mark.parametrize("text", ODD)
def test_any_text_comes_back_unchanged(language: PreTrainedTokenizerFast, text: str) -> None:
    ids = language(text)["input_ids"]
    assert language.decode(ids) == text
    assert not {language.bos_token_id, language.eos_token_id} & set(ids)


def test_special_tokens_lie_where_open_clip_wants_them(language: PreTrainedTokenizerFast) -> None:
    assert language.pad_token_id == 0
    assert language.eos_token_id == len(language) - 1


def test_open_clip_frames_and_pads_a_caption(language: PreTrainedTokenizerFast) -> None:
    tokenize = open_clip.get_tokenizer(f"local-dir:{asset('clip')}")
    ids = tokenize(["a red disc", "a red disc " * 30])
    words = language(["a red disc"])["input_ids"][0]
    assert ids.shape == (2, CONTEXT)
    assert ids[0].tolist() == [language.bos_token_id, *words, language.eos_token_id] + [0] * (CONTEXT - len(words) - 2)
    assert ids[1, -1] == language.eos_token_id, "a text that is cut still ends as the pooling expects"
