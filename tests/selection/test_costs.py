from __future__ import annotations

from typing import Any

import pytest

from tove_core.errors import ConfigError
from tove_core.selection.costs import expert_costs


def test_costs_are_shares_of_the_operations_of_all(toy: Any) -> None:
    model = toy.build(decoder=None)
    found = expert_costs(model)
    # Convolutions without overlap: each pixel of three colours meets every channel once.
    operations = {"toy-fine": 24 * 36 * 3 * 3, "toy-wide": 16 * 24 * 3 * 33, "toy-whole": 24 * 24 * 3 * 7}
    total = sum(operations.values())
    assert found == {name: pytest.approx(count / total) for name, count in operations.items()}
    model.detach("toy-wide")
    left = expert_costs(model)
    assert set(left) == {"toy-fine", "toy-whole"} and sum(left.values()) == pytest.approx(1)


def test_costs_that_are_given_have_any_unit(toy: Any) -> None:
    given = {"toy-whole": 6.0, "toy-fine": 0.0, "toy-wide": 2}
    assert expert_costs(toy.build(decoder=None), given) == {"toy-fine": 0, "toy-wide": 0.25, "toy-whole": 0.75}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"toy-fine": 1.0}, "costs are given for toy-fine, and toy-fine, toy-wide, toy-whole are on"),
        ({"toy-fine": 1, "toy-wide": 1, "toy-whole": 1, "other": 1}, "give one for each of these and for no other"),
        ({"toy-fine": 1, "toy-wide": -1, "toy-whole": 1}, "the cost of 'toy-wide' is -1"),
        ({"toy-fine": 1, "toy-wide": float("nan"), "toy-whole": 1}, "the cost of 'toy-wide' is nan"),
        ({"toy-fine": 0, "toy-wide": 0, "toy-whole": 0}, "costs nothing that was counted"),
    ],
)
def test_costs_that_make_no_sense_are_refused(toy: Any, given: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        expert_costs(toy.build(decoder=None), given)


def test_an_expert_that_cannot_run_on_meta_wants_its_cost_given(toy: Any) -> None:
    model = toy.build(["toy-names", "toy-fine"], clip=toy.reading_clip, decoder=None)
    with pytest.raises(ConfigError, match=r"the operations of 'toy-names' cannot be counted .* give a cost for every"):
        expert_costs(model)
    assert expert_costs(model, {"toy-names": 1, "toy-fine": 3})["toy-names"] == 0.25
