"""Options of `generate`: which there are, so that a misspelt one is told before transformers meets it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable

from transformers import GenerationConfig, PreTrainedModel

from tove_core.errors import ConfigError

OWN = ("max_new_tokens", "num_beams", "do_sample", "temperature", "top_p", "top_k", "seed", "streamer")
"""What `Decoder.generate` says itself."""
_TAKEN = frozenset({"self", "inputs", "kwargs", "generation_config"})
"""Parameters of transformers' `generate` that are given by the decoder alone."""


def check_options(names: Iterable[str], model: PreTrainedModel) -> None:
    """Refuse options that transformers' `generate` does not have.

    Raises:
        ConfigError: there is one; the nearest that exists is named.
    """
    known = {*OWN, *vars(GenerationConfig()), *inspect.signature(model.generate).parameters} - _TAKEN  # type: ignore[operator]
    for name in names:
        if name not in known:
            public = sorted(one for one in known if not one.startswith("_"))
            # Own options first: of two that are as near they are the likelier.
            close = [*difflib.get_close_matches(name, OWN, n=1), *difflib.get_close_matches(name, public, n=1)]
            near = f"did you mean {close[0]!r}?" if close else f"tove's own are {', '.join(OWN)}"
            raise ConfigError(f"there is no generation option {name!r}; {near}")
