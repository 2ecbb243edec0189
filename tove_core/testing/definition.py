"""What a conformance check is: its words, its place, and the function that decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tove_core.errors import ToveError

if TYPE_CHECKING:
    from tove_core.testing.subject import Subject

Tier = Literal["declared", "architecture", "module"]
"""declared: what the spec and its plugin say; architecture: the full size, on `meta`; module: a module that computes.

Checks of the tier `module` run once per expert, on `tiny` or on the smallest variant; the others for every variant.
"""

Verdict = Callable[["Subject"], str]
"""Returns a note (what was measured, or nothing), or raises `CheckFailed` or `NotApplicable`."""


class CheckFailed(ToveError):
    """An expert does not do what its check asks for; the sentence names what was seen."""


class NotApplicable(ToveError):
    """A check has nothing to look at in this expert; the sentence says why."""


class NotRun(CheckFailed):
    """Another check's fault kept this one from looking at anything; the sentence is that fault's, not this check's."""


class ForwardFailed(ToveError):
    """A forward pass raised something of its own; `contract-shapes` owns it where the plain run did."""


class NoMeta(ToveError):
    """The architecture does not build on `meta`, which `builds-on-meta` owns."""


@dataclass(frozen=True)
class Definition:
    """One check of the list, whatever the expert."""

    id: str
    tier: Tier
    summary: str
    """What conforming experts do, a clause of the third person."""
    cause: str
    """What usually lies behind a failure."""
    cure: str
    """What the author does about it."""
    verdict: Verdict
    owns: frozenset[str] = frozenset()
    """Faults of the plain run that are this check's subject: of `ContractError.about`, or `forward`."""


def one_line(error: BaseException) -> str:
    """Return what an error says on one line, with its class where it is not one of tove's."""
    said = " ".join(str(error).split())
    return said if isinstance(error, ToveError) else f"{type(error).__name__}: {said}"


def defines(
    id: str, tier: Tier, *, summary: str, cause: str, cure: str, owns: Iterable[str] = ()
) -> Callable[[Verdict], Definition]:
    """Turn a function into the definition of a check; the arguments are the fields of `Definition`."""

    def wrap(verdict: Verdict) -> Definition:
        return Definition(id, tier, summary, cause, cure, verdict, frozenset(owns))

    return wrap
