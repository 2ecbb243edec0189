"""What is checked: an expert with one of its variants applied, and the plugin that offers it where one does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tove_core import plugins
from tove_core.in_process import IN_PROCESS
from tove_core.spec import ExpertSpec


@dataclass(frozen=True, eq=False)
class Subject:
    """One expert, one variant. Compared by identity, so that what is built for it can be kept."""

    name: str
    """As it would be requested, `name` or `name:variant`."""
    spec: ExpertSpec
    """Its variant applied."""
    offer: plugins.Offer | None
    """None for a spec that no installed plugin offered."""
    builds: bool
    """Whether the checks of the tier `module` run on this one; they run on one variant of an expert."""


def subjects(expert: str | ExpertSpec) -> Iterator[Subject]:
    """Yield what is to be checked for a requested name or a spec: the named variant, else every variant.

    Raises:
        UnknownExpertError: no installed plugin offers an expert or a variant of that name.
        AmbiguousExpertError: several plugins do.
    """
    offer = None
    if isinstance(expert, str):
        found = plugins.registry().resolve(expert)
        # One that this process registered has no entry point to look at, as one given by itself.
        offer = None if found.offer.source.distribution == IN_PROCESS else found.offer
        if ":" in expert:
            yield Subject(expert, found.spec, offer, builds=True)
            return
        name, spec = expert, found.offer.spec
    else:
        name, spec = expert.name, expert
    if not spec.variants:
        yield Subject(name, spec, offer, builds=True)
        return
    specs = {variant: spec.variant(variant) for variant in spec.variants}
    smallest = _smallest(list(specs.items()))
    for variant, applied in specs.items():
        yield Subject(f"{name}:{variant}", applied, offer, builds=variant == smallest)


def _smallest(specs: Sequence[tuple[str, ExpertSpec]]) -> str:
    """Return the variant with the fewest declared parameters; one that declares none counts as large."""
    return min(specs, key=lambda one: one[1].cost.params if one[1].cost else float("inf"))[0]
