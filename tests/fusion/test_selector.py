from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tove_core.fusion.selector import Selection, Selector, worth

WIDTH = 12
COSTS = {"a": 0.5, "b": 0.2, "c": 0.3}


@pytest.fixture
def selector() -> Selector:
    """Rows that differ from image to image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = Selector(WIDTH, Selection(budget=0.4, price=0.1, costs=COSTS, hidden=7))
        for row in [*made.rows.values(), made.baseline]:
            nn.init.normal_(row.weight)  # type: ignore[arg-type,union-attr]
    return made


def tokens(batch: int = 9) -> Tensor:
    return torch.randn(batch, 5, WIDTH, generator=torch.Generator().manual_seed(4))


def test_an_untrained_selector_expects_nothing_and_chooses_nothing() -> None:
    made = Selector(WIDTH, Selection(budget=0.4, price=0, costs=COSTS))
    expected = made(tokens())
    assert expected.values.shape == (9, 3) and expected.baseline.shape == (9,)
    assert not expected.values.any() and not any(own.any() for own in made.choose(tokens()).values())


def test_an_expert_is_chosen_where_it_saves_more_than_its_cost_is_worth(selector: Selector) -> None:
    values = selector(tokens()).values
    chosen = selector.choose(tokens())
    for k, (name, cost) in enumerate(COSTS.items()):
        assert chosen[name].tolist() == [value / cost > 0.1 for value in values[:, k].tolist()]
    assert 0 < sum(int(own.sum()) for own in chosen.values()) < 27


def test_the_choice_of_an_image_does_not_depend_on_the_others_nor_on_the_order_of_tokens(selector: Selector) -> None:
    given = tokens()
    alone = torch.cat([selector(one[None]).values for one in given])
    torch.testing.assert_close(selector(given).values, alone)
    torch.testing.assert_close(selector(given.flip(1)).values, alone)


def test_an_expert_leaves_and_what_the_others_are_worth_stays_bit_for_bit(selector: Selector) -> None:
    left = selector.without(["b", "unknown"])
    assert left is not None and left.experts == ["a", "c"] and left.selection.costs == {"a": 0.5, "c": 0.3}
    assert torch.equal(left(tokens()).values, selector(tokens()).values[:, [0, 2]])
    assert selector.experts == ["a", "b", "c"] and left.selection.price == 0.1
    assert {name for name, _ in left.named_parameters()} < {name for name, _ in selector.named_parameters()}
    assert selector.without(COSTS) is None


def test_what_costs_nothing_is_worth_infinitely_much_or_nothing() -> None:
    values = torch.tensor([[0.3, 0.3], [-0.3, -0.3], [0.0, 0.0]])
    assert worth(values, {"paid": 0.6, "free": 0.0}).tolist() == [
        [pytest.approx(0.5), torch.inf],
        [0, 0],
        [0, 0],
    ]


@pytest.mark.parametrize("wrong", [{"budget": 0.0}, {"budget": 1.0}, {"price": -0.1}, {"costs": {"a": -1}}])
def test_a_selection_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Selection.model_validate({"budget": 0.5, "price": 0.0, "costs": COSTS} | wrong)
