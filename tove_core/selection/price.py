"""The price of a unit of cost at which the experts chosen for some images meet a budget."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tove_core.fusion.selector import worth


def price_for(values: Tensor, costs: Mapping[str, float], budget: float) -> float:
    """Return the lowest price, from 0, at which the mean cost of what is chosen is within the budget.

    Args:
        values: what each expert is expected to save on R images, [R, K], K as in `costs`.
        costs: of each expert, as a share of running all.
        budget: mean cost of an image.
    """
    cost = torch.tensor(list(costs.values()), dtype=torch.float64)
    ratios = worth(values.cpu(), costs)
    paid = (ratios > 0) & (cost > 0)
    order = ratios[paid].argsort(descending=True, stable=True)
    spent = cost.expand_as(ratios)[paid][order].cumsum(0)
    over = (spent > budget * len(values) * (1 + 1e-12)).nonzero()
    # The first that is too much is not chosen, nor is what is worth the same.
    return float(ratios[paid][order][over[0]]) if len(over) else 0.0
