"""What a decoder is given, checked before it is tokenised or run: vision tokens, prompts and answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from tove_core.errors import ConfigError, DataError
from tove_core.language.marks import wrong_marks


def check_tokens(tokens: object, width: int) -> None:
    """Refuse what is no tensor of vision tokens [B, N, width].

    Raises:
        ConfigError: it is of another type or shape.
    """
    if not isinstance(tokens, Tensor):
        seen = f"are of type {type(tokens).__name__}"
    elif tokens.ndim != 3 or tokens.shape[2] != width or not tokens.shape[1]:
        seen = f"have shape {list(tokens.shape)}"
    else:
        return
    raise ConfigError(f"tokens {seen}; this decoder wants [B, N, {width}], a tensor as ToveModel.tokens gives it")


def check_finite(tokens: Tensor) -> None:
    """Refuse vision tokens that are not all numbers: nothing can be said about them, and what is said would be empty.

    Raises:
        DataError: some are not finite; the rows of the batch are named.
    """
    fine = tokens.isfinite().all(2).all(1)
    if not fine.all():
        rows = ", ".join(map(str, (~fine).nonzero().flatten().tolist()[:5]))
        raise DataError(
            f"tokens of {int((~fine).sum())} of {len(tokens)} samples hold values that are not finite (the first: "
            f"{rows}, from 0); find out who gives them with ToveModel.tokens, or leave those out"
        )


def listed_texts(texts: Any, what: str) -> list[Any]:
    """Return texts as a list; what each of them is, is not looked at.

    Args:
        texts: anything that can be gone through but one text, whose letters would be taken for texts.
        what: they are called, in the plural.

    Raises:
        DataError: they are one text, or cannot be gone through.
    """
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable):
        raise DataError(f"{what} are {texts!r:.60}; give a list with one text for each image")
    return list(texts)


def questions_about(counts: Sequence[int], questions: Any) -> list[str]:
    """Return one question for each of B lists of images; a single text is asked about every one.

    Args:
        counts: B of them: how many images are asked about.

    Raises:
        ConfigError: there are not as many questions, or one is about no image.
        DataError: one marks the places of more or fewer images than it is asked about, or they are no texts.
    """
    asked = [questions] * len(counts) if isinstance(questions, str) else listed_texts(questions, "questions")
    if len(asked) != len(counts):
        raise ConfigError(f"{len(asked)} questions were given for {len(counts)} images; wanted one for each")
    for question, count in zip(asked, counts, strict=True):
        if count == 0:
            raise ConfigError(f"the question {question!r} is about no image; give at least one")
        if (fault := wrong_marks(question, count)) is not None:
            raise DataError(fault)
    return asked
