"""Train some experts of a model alone: everything else is frozen for as long as it lasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tove_core.checks import names_given
from tove_core.errors import ConfigError
from tove_core.model import ToveModel


@contextmanager
def only_experts(model: ToveModel, experts: Sequence[str] | None) -> Iterator[None]:
    """Let nothing be trainable but what belongs to `experts` alone; None: leave the model as it is.

    Raises:
        UnknownExpertError: the model holds no such expert.
        ConfigError: there is no fusion, or no expert is named, or what was given is no list of names.
    """
    if experts is None:
        yield
        return
    experts = names_given(experts, "only")
    if model.fusion is None or not experts:
        raise ConfigError("training experts alone needs a fusion and at least one expert's name; add one first")
    kept = {id(p) for name in experts for p in model.fusion.of_expert(name)}
    frozen = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in kept}
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        # By name: a language model that was divided among processes and put together again has other objects.
        for name, parameter in model.named_parameters():
            if name in frozen:
                parameter.requires_grad_(True)
