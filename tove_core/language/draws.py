"""Seeded sampling from generators of its own: other threads neither change what is drawn nor are changed by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import LogitsProcessor

from tove_core.checks import seed_given

GUESSING = ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens", "use_mtp", "custom_generate")
"""Options of transformers' `generate` by which it also draws elsewhere than from processed scores."""


class Draws(TorchFunctionMode):
    """The random numbers of one seed, which go on from draw to draw; on each device those of its own generator.

    Within it as a context everything that this thread samples comes from them, which makes each call of torch slower.
    `OwnDraws` costs nearly nothing, and does wherever numbers are drawn from processed scores alone.

    Raises:
        ConfigError: the seed is none that runs take either; see `tove_core.checks.seed_given`.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed_given(seed)
        self._generators: dict[torch.device, torch.Generator] = {}

    @classmethod
    def of(cls, seed: int | Draws | None) -> Draws | None:
        """Return draws that begin with a seed; given draws go on where they are, None stays None."""
        return seed if seed is None or isinstance(seed, cls) else cls(seed)  # type: ignore[arg-type]

    def call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function of torch; if it samples, from these numbers."""
        if func is torch.multinomial:
            return func(*args, **{"generator": self._on(args[0].device), **kwargs})
        if func is torch.rand_like:  # whether a token that was guessed ahead is taken
            like = args[0]
            return torch.rand(like.shape, generator=self._on(like.device), device=like.device, dtype=like.dtype)
        return func(*args, **kwargs)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.call(func, args, kwargs or {})

    def _on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def sampled_by(draws: Draws, options: Mapping[str, Any]) -> tuple[dict[str, Any], AbstractContextManager[object]]:
    """Return options for transformers' `generate`, and the context to call it in, so that it samples by `draws`.

    Args:
        options: as they were without.
    """
    if any(options.get(name) for name in GUESSING):
        return dict(options), draws
    own = [*(options.get("logits_processor") or []), OwnDraws(draws)]
    return {**options, "logits_processor": own}, nullcontext()


class OwnDraws(LogitsProcessor):
    """Makes transformers sample from `draws`, which offers no way to give it a generator.

    Scores leave it as a kind of tensor that remembers `draws` through whatever shapes them further, until numbers are
    drawn by them. The language model itself runs on plain tensors.
    """

    def __init__(self, draws: Draws) -> None:
        self._kind = type("Scores", (_Scores,), {"draws": draws})

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the same scores [B, V], marked."""
        return scores.as_subclass(self._kind)


class _Scores(Tensor):
    draws: ClassVar[Draws]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return cls._marked(cls.draws.call(func, args, kwargs or {}))

    @classmethod
    def _marked(cls, result: Any) -> Any:
        if isinstance(result, (tuple, list)):
            return type(result)([cls._marked(part) for part in result])
        # Ids and masks are no scores: what the language model reads must stay plain.
        return result.as_subclass(cls) if isinstance(result, Tensor) and result.is_floating_point() else result
