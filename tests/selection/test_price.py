from __future__ import annotations

import pytest
import torch

from tove_core.fusion.selector import worth
from tove_core.selection.price import price_for

COSTS = {"a": 0.5, "b": 0.2, "c": 0.3, "free": 0.0}


@pytest.mark.parametrize("budget", [0.05, 0.3, 0.61, 0.99])
def test_the_price_is_the_lowest_that_keeps_the_mean_cost_within_the_budget(budget: float) -> None:
    values = torch.randn(37, 4, generator=torch.Generator().manual_seed(1)) + 0.8
    cost = torch.tensor(list(COSTS.values()), dtype=torch.float64)

    def spent(price: float) -> float:
        return ((worth(values, COSTS) > price).double() @ cost).mean().item()

    price = price_for(values, COSTS, budget)
    assert spent(price) <= budget
    if price > 0:
        assert spent(price * (1 - 1e-12)) > budget, "one more would be too much"
    else:
        assert spent(0) == pytest.approx(((values > 0).double() @ cost).mean().item())


def test_what_is_expected_to_harm_is_not_run_even_where_the_budget_allows() -> None:
    values = torch.tensor([[-1.0, 0.5, 0.0, -0.1], [-2.0, 0.1, -3.0, 0.1]])
    assert price_for(values, COSTS, 0.9) == 0
    assert (worth(values, COSTS) > 0).tolist() == [[False, True, False, False], [False, True, False, True]]


def test_images_that_are_worth_the_same_are_taken_together_or_not_at_all() -> None:
    values = torch.ones(10, 1)
    price = price_for(values, {"only": 1.0}, 0.5)
    assert price == 1.0 and not (worth(values, {"only": 1.0}) > price).any()
