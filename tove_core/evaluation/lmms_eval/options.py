"""What lmms-eval's generation options mean to a tove decoder, and which of them mean nothing to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tove_core.errors import ConfigError

Report = Callable[[str], object]
"""Takes one sentence for whoever runs the evaluation."""

_PASSED = (
    "num_beams",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "length_penalty",
    "min_new_tokens",
    "early_stopping",
)
_SAMPLING = ("temperature", "top_p", "top_k", "seed")


@dataclass(frozen=True)
class Generation:
    """How one request is to be answered; requests that are equal in this can be answered together.

    Attributes:
        options: for `Decoder.generate`.
        until: the answer ends before the first of these texts.
        max_new_tokens: None: the checkpoint's own.
    """

    options: Mapping[str, Any]
    until: tuple[str, ...] = ()
    max_new_tokens: int | None = None

    @property
    def key(self) -> str:
        """Equal for equal generations."""
        return json.dumps([self.options, self.until, self.max_new_tokens], sort_keys=True)

    def cut(self, text: str) -> str:
        """Return the answer in what was generated: all before the first of `until`."""
        ends = [place for place in map(text.find, self.until) if place >= 0]
        return text[: min(ends, default=len(text))].strip()


def read_generation(given: Mapping[str, Any], report: Report) -> Generation:
    """Read a request's generation options; `report` is told of each that cannot be followed.

    Sampling is done where `do_sample` says so, or where only a temperature above 0 is given; temperature 0 is greedy.

    Raises:
        ConfigError: `until` is neither text nor a list of texts, or a number is none.
    """
    rest = dict(given)
    until, length = _until(rest.pop("until", None)), rest.pop("max_new_tokens", None)
    options = {name: rest.pop(name) for name in _PASSED if name in rest}
    options |= _sampling(rest, report)
    for name, value in rest.items():
        report(f"generation option {name}={value!r} has no meaning for tove and is left out")
    return Generation(
        {k: v for k, v in options.items() if v is not None}, until, _number("max_new_tokens", length, int)
    )


def _until(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"until is {value!r}, but a text or a list of texts is wanted; repair the task's options")
    return tuple(text for text in texts if text)


def _sampling(rest: dict[str, Any], report: Report) -> dict[str, Any]:
    """Take what is about sampling out of `rest` and return what the decoder is to be told."""
    asked = rest.pop("do_sample", None)
    given = {name: rest.pop(name) for name in _SAMPLING if name in rest}
    heat = _number("temperature", given.pop("temperature", None), float)
    sample = bool(heat) if asked is None else bool(asked) and heat != 0
    if not sample:
        if heat:
            report(f"temperature={heat:g} has no effect because do_sample is off")
        return {}
    shaping = {"top_p": _number("top_p", given.get("top_p"), float), "top_k": _number("top_k", given.get("top_k"), int)}
    return {"do_sample": True, "temperature": heat, **shaping, "seed": _number("seed", given.get("seed"), int)}


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    if value is None:
        return None
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} is {value!r}, but a number is wanted; repair the task's options") from error
