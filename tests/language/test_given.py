from __future__ import annotations

from typing import Any

import pytest

from tove_core.errors import ConfigError, DataError
from tove_core.language.given import listed_texts


@pytest.mark.parametrize("kind", ["prefix", "cross-attention"])
def test_what_are_no_vision_tokens_is_refused(make: Any, tokens: Any, prompts: list[str], kind: str) -> None:
    decoder = make("gpt2", kind=kind)
    wrong = {"type NoneType": None, "type ndarray": tokens.numpy(), "type list": tokens.tolist(), "shape": tokens[0]}
    for told, given in wrong.items():
        for ask in (
            lambda given=given: decoder.generate(given, prompts),
            lambda given=given: decoder(given, prompts, prompts),
            lambda given=given: list(decoder.stream(given, "how many?")),
        ):
            with pytest.raises(ConfigError, match=rf"tokens .*{told}.*; this decoder wants \[B, N, 11\]"):
                ask()


def test_one_text_is_refused_where_a_list_is_wanted_and_whatever_can_be_gone_through_is_a_list(
    make: Any, tokens: Any, prompts: list[str]
) -> None:
    decoder = make("llama")
    with pytest.raises(DataError, match="prompts are 'abc'; give a list with one text for each image"):
        decoder.generate(tokens, "abc")
    with pytest.raises(DataError, match="targets are 'abc'; give a list"):
        decoder(tokens, prompts, "abc")
    with pytest.raises(DataError, match="prompts are None; give a list"):
        decoder(tokens, None, prompts)
    with pytest.raises(DataError, match=r"questions are {'a': 1}"):
        listed_texts({"a": 1}, "questions")
    assert decoder.generate(tokens, iter(prompts)) == decoder.generate(tokens, prompts)
