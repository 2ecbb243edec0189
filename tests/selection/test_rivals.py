from __future__ import annotations

from collections.abc import Sequence

import pytest

from tove_core.selection.rivals import Set, best_fixed, best_mixture, cost_of, fixed_sets

COSTS = {"a": 0.5, "b": 0.3, "c": 0.2}
LOSSES = {"": 1.0, "a": 0.6, "b": 0.9, "c": 0.8, "ab": 0.5, "ac": 0.55, "bc": 0.95, "abc": 0.4}
SETS = {frozenset(names): loss for names, loss in LOSSES.items()}


def test_of_few_experts_every_set_is_measured_once() -> None:
    asked: list[Set] = []

    def measure(sets: Sequence[Set]) -> dict[Set, float]:
        asked.extend(sets)
        return {one: SETS[one] for one in sets}

    assert fixed_sets(COSTS, measure) == SETS and len(asked) == 8


def test_of_many_the_set_grows_by_what_saves_most_for_its_cost() -> None:
    names = "abcdefg"
    costs = dict.fromkeys(names, 1 / 7) | {"g": 0.0}
    saves = dict(zip(names, (0.1, 0.7, 0.3, -0.2, 0.5, 0.0, 0.01), strict=True))

    def measure(sets: Sequence[Set]) -> dict[Set, float]:
        return {one: 9 - sum(saves[name] for name in one) for one in sets}

    found = fixed_sets(costs, measure)
    assert len(found) == 1 + sum(range(1, 8))
    assert best_fixed(found, costs, 2 / 7) == set("gbe") and best_fixed(found, costs, 1.0) == set("gbeca")


@pytest.mark.parametrize(
    ("budget", "wanted"), [(0.1, ""), (0.2, "c"), (0.5, "a"), (0.75, "ac"), (0.8, "ab"), (1.0, "abc")]
)
def test_the_best_fixed_set_is_the_best_that_the_budget_allows(budget: float, wanted: str) -> None:
    assert best_fixed(SETS, COSTS, budget) == set(wanted)


@pytest.mark.parametrize("budget", [0.1, 0.35, 0.5, 0.6, 0.9])
def test_a_mixture_spends_the_budget_and_no_other_is_better(budget: float) -> None:
    first, second, chance = best_mixture(SETS, COSTS, budget)

    def of(one: Set, other: Set, p: float) -> tuple[float, float]:
        low, high = cost_of(one, COSTS), cost_of(other, COSTS)
        return (1 - p) * low + p * high, (1 - p) * SETS[one] + p * SETS[other]

    cost, loss = of(first, second, chance)
    assert cost <= budget + 1e-9 and 0 <= chance < 1
    tried = [of(one, other, p / 100) for one in SETS for other in SETS for p in range(101)]
    assert loss <= min(found for spent, found in tried if spent <= budget) + 1e-9


def test_where_spending_more_does_not_help_there_is_nothing_to_mix() -> None:
    sets = {one: -loss for one, loss in SETS.items()}
    assert best_mixture(sets, COSTS, 0.4) == (set(), set(), 0.0)
