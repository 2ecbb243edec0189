"""Find the price of a selector and the fixed choices it has to beat, and score all of them on other samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tove_core.errors import DataError
from tove_core.evaluation.metrics.bootstrap import bootstrap
from tove_core.fusion.selector import Selector, worth
from tove_core.language.base import Decoder
from tove_core.model import ToveModel
from tove_core.selection.measure import Choice, Seen, measured
from tove_core.selection.parts import of_group
from tove_core.selection.price import price_for
from tove_core.selection.report import ALL, CHOSEN, MIXED, NONE, RANDOM, SHUFFLED, STATIC, Difference, Row
from tove_core.selection.rivals import Mixture, Set, best_fixed, best_mixture, cost_of, fixed_sets
from tove_core.training.examples import Examples

_ORDER = (ALL, CHOSEN, MIXED, STATIC, SHUFFLED, RANDOM, NONE)


class Judge:
    """Finds price and rivals on one part of the samples, and scores them on another."""

    def __init__(self, model: ToveModel, decoder: Decoder, selector: Selector, batch_size: int, seed: int) -> None:
        self.model, self.decoder, self.selector, self.batch_size = model, decoder, selector, batch_size
        self.draw = torch.Generator().manual_seed(seed)

    @property
    def costs(self) -> dict[str, float]:
        """Of the experts, as shares of running all."""
        return self.selector.selection.costs

    def choose(self, examples: Examples) -> None:
        """Set the selector's price, and find the rivals that may spend as much."""
        values = list[Tensor]()

        def noting(choose: Choice) -> Choice:
            def noted(tokens: Tensor) -> Tensor:
                values.append(self.selector(tokens).values.cpu())
                return choose(tokens)

            return noted

        def measure(sets: Sequence[Set]) -> dict[Set, float]:
            choices = {str(k): self._fixed(one) for k, one in enumerate(sets)}
            if not values:
                choices["0"] = noting(choices["0"])
            found = self._measured(examples, choices)[1]
            return {one: found[str(k)].mean for k, one in enumerate(sets)}

        budget = self.selector.selection.budget
        with torch.no_grad():
            sets = fixed_sets(self.costs, measure)
        every = torch.cat(values)
        price = price_for(every, self.costs, budget)
        self.selector.selection = self.selector.selection.model_copy(update={"price": price})
        self.chosen = worth(every, self.costs) > price
        self.fixed = best_fixed(sets, self.costs, budget)
        self.mixture = best_mixture(sets, self.costs, budget)

    def score(self, examples: Examples) -> dict[str, Any]:
        """Return what a report says of the choices, each measured on the same samples."""
        names, mixture = list(self.costs), self.mixture
        low, high = (f"{MIXED}: {which}" for which in ("first", "second"))
        choices: dict[str, Choice] = {
            ALL: self._fixed(frozenset(names)),
            CHOSEN: self._selected,
            STATIC: self._fixed(self.fixed),
            low: self._fixed(mixture.first),
            high: self._fixed(mixture.second),
            SHUFFLED: self._shuffled,
            RANDOM: self._random,
            NONE: self._fixed(frozenset()),
        }
        used, found = self._measured(examples, choices)
        found[MIXED] = _mixed(found.pop(low), found.pop(high), mixture)
        rows = {name: Row(loss=found[name].mean, cost=self._cost(name, found[name])) for name in _ORDER}
        groups = of_group([examples.rows[i] for i in used])
        against = {name: _difference(found[CHOSEN], found[name], groups) for name in (STATIC, MIXED, SHUFFLED, ALL)}
        return {
            "rows": rows,
            "ran": found[CHOSEN].shares(names),
            "fixed": self._sorted(self.fixed),
            "mixture": (self._sorted(mixture.first), self._sorted(mixture.second), mixture.chance),
            "against": against,
        }

    def _measured(self, examples: Examples, choices: Mapping[str, Choice]) -> tuple[list[int], dict[str, Seen]]:
        used, found = measured(self.model, self.decoder, examples, choices, self.batch_size)
        if len(set(of_group([examples.rows[i] for i in used]))) < 2:
            raise DataError("fewer than two images are left to judge the selector on; check the data set")
        return used, found

    def _cost(self, name: str, seen: Seen) -> float:
        if name != MIXED:
            return seen.cost(self.costs)
        low, high = (cost_of(one, self.costs) for one in self.mixture[:2])
        return (1 - self.mixture.chance) * low + self.mixture.chance * high

    def _sorted(self, experts: Set) -> list[str]:
        return [name for name in self.costs if name in experts]

    def _fixed(self, experts: Set) -> Choice:
        on = torch.tensor([name in experts for name in self.costs])
        return lambda tokens: on.to(tokens.device).expand(len(tokens), -1)

    def _selected(self, tokens: Tensor) -> Tensor:
        return torch.stack(list(self.selector.choose(tokens).values()), 1)

    def _shuffled(self, tokens: Tensor) -> Tensor:
        """Choose what was chosen for some other image, so that the image itself says nothing."""
        others = torch.randint(len(self.chosen), (len(tokens),), generator=self.draw)
        return self.chosen[others].to(tokens.device)

    def _random(self, tokens: Tensor) -> Tensor:
        """Choose each expert with the same chance, the mean cost of the selection."""
        cost = self.chosen.double().mean(0) @ torch.tensor(list(self.costs.values()), dtype=torch.float64)
        return (torch.rand(len(tokens), len(self.costs), generator=self.draw) < cost).to(tokens.device)


def _mixed(first: Seen, second: Seen, mixture: Mixture) -> Seen:
    """Return what is to be expected of two sets that are drawn with some chance."""
    chance = mixture.chance
    return Seen([(1 - chance) * low + chance * high for low, high in zip(first.loss, second.loss, strict=True)])


def _difference(own: Seen, rival: Seen, groups: Sequence[int]) -> Difference:
    """Return the mean difference over images, and its 95 % interval."""
    of_image: defaultdict[int, list[float]] = defaultdict(list)
    for group, mine, other in zip(groups, own.loss, rival.loss, strict=True):
        of_image[group].append(mine - other)
    found = bootstrap([sum(some) / len(some) for some in of_image.values()])
    return Difference(mean=found.mean, low=found.low, high=found.high)
