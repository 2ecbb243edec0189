"""What an expert costs beside the others: its operations on one image, counted on meta, or what the user says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch

from tove_core.errors import ConfigError, ToveError
from tove_core.hub.expert import FrozenExpert
from tove_core.model import ToveModel
from tove_core.planning.experts import outline
from tove_core.planning.measure import run
from tove_core.spec import ExpertSpec


def expert_costs(model: ToveModel, given: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the cost of each expert that is on, as a share of running all of them.

    Args:
        given: a cost for each of them, all in one unit, whichever it is; None: operations on one image, as the spec
            declares them or as they are counted.

    Raises:
        ConfigError: costs are given for some of them alone or for others, one is below 0 or none above it, or
            operations cannot be counted.
    """
    names = model.active_experts
    costs = _given(names, given) if given else {name: _counted(model, name) for name in names}
    total = math.fsum(costs.values())
    if not total > 0:
        raise ConfigError(
            f"running {', '.join(names)} costs nothing that was counted; give the costs: --cost NAME=NUMBER"
        )
    return {name: cost / total for name, cost in costs.items()}


def require_costs(model: ToveModel, given: Mapping[str, float] | None) -> None:
    """Refuse costs that `expert_costs` would refuse, before samples are encoded.

    Raises:
        ConfigError: they are given for some experts alone or for others, or one is below 0.
    """
    if given:
        _given(model.active_experts, given)


def _given(names: list[str], given: Mapping[str, float]) -> dict[str, float]:
    if set(given) != set(names):
        raise ConfigError(
            f"costs are given for {', '.join(given)}, and {', '.join(names)} are on; costs have one unit, so give one "
            "for each of these and for no other"
        )
    for name, cost in given.items():
        if not (math.isfinite(cost) and cost >= 0):
            raise ConfigError(f"the cost of {name!r} is {cost}; give a number from 0")
    return {name: float(given[name]) for name in names}


def _counted(model: ToveModel, name: str) -> float:
    spec = cast(FrozenExpert, model.experts[name]).spec
    if spec.cost is not None and spec.cost.flops is not None:
        return float(spec.cost.flops)
    try:
        return float(operations(spec, name))
    except ToveError as error:
        raise ConfigError(
            f"the operations of {name!r} cannot be counted ({error}); give a cost for every expert: --cost NAME=NUMBER"
        ) from error


def operations(spec: ExpertSpec, name: str) -> int:
    """Return the operations of an expert on one image of its input's size, a multiply-add as two.

    Raises:
        PluginError: its architecture cannot be built on meta.
        ConfigError: it does not run there to the end.
    """
    module = outline(spec, name)
    pixels = torch.empty(1, 3, *spec.input.size, device="meta")
    done = run(lambda: module(pixels), partial=True)
    if done.stopped is not None:
        raise ConfigError(f"its forward does not run on meta to the end, {done.stopped}")
    return done.flops
