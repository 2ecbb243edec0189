"""What a choice for each image has to beat: the best fixed set of experts, and two of them mixed at random."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

Set = frozenset[str]
Measure = Callable[[Sequence[Set]], Mapping[Set, float]]
"""Gives the loss of some fixed sets."""

EVERY_SET = 5
"""Most experts of which every set is tried; of more, those that grow by the best next expert."""

_SLACK = 1e-9


class Mixture(NamedTuple):
    """Two fixed sets: each image gets the second with some chance, else the first."""

    first: Set
    second: Set
    chance: float


def fixed_sets(costs: Mapping[str, float], measure: Measure) -> dict[Set, float]:
    """Return fixed sets of experts with their losses: all there are, or of many experts those of a greedy search.

    Args:
        costs: of the experts, as shares of running all.
        measure: gives the loss of some sets.
    """
    if len(costs) <= EVERY_SET:
        return dict(measure([frozenset(some) for size in range(len(costs) + 1) for some in combinations(costs, size)]))
    now: Set = frozenset()
    found = dict(measure([now]))
    while len(now) < len(costs):
        nexts = {name: now | {name} for name in costs if name not in now}
        found |= measure(list(nexts.values()))
        # What costs nothing comes first where it helps.
        gain = {name: (found[now] - found[one]) / max(costs[name], _SLACK) for name, one in nexts.items()}
        now = nexts[max(gain, key=lambda name: gain[name])]
    return found


def best_fixed(sets: Mapping[Set, float], costs: Mapping[str, float], budget: float) -> Set:
    """Return the set of least loss whose cost is within the budget; running nothing always is."""
    return min((one for one in sets if cost_of(one, costs) <= budget + _SLACK), key=lambda one: sets[one])


def best_mixture(sets: Mapping[Set, float], costs: Mapping[str, float], budget: float) -> Mixture:
    """Return the two sets of least loss whose mixture has at most the budget as its mean cost."""
    one = best_fixed(sets, costs, budget)
    best, least = Mixture(one, one, 0.0), sets[one]
    for first, second in _pairs(sets, costs, budget):
        low, high = cost_of(first, costs), cost_of(second, costs)
        chance = (budget - low) / (high - low)
        loss = (1 - chance) * sets[first] + chance * sets[second]
        if loss < least:
            best, least = Mixture(first, second, chance), loss
    return best


def _pairs(sets: Iterable[Set], costs: Mapping[str, float], budget: float) -> list[tuple[Set, Set]]:
    within = [one for one in sets if cost_of(one, costs) <= budget]
    beyond = [one for one in sets if cost_of(one, costs) > budget + _SLACK]
    return [(low, high) for low in within for high in beyond]


def cost_of(experts: Iterable[str], costs: Mapping[str, float]) -> float:
    """Return the cost of an image on which these run."""
    return sum(costs[name] for name in experts)
