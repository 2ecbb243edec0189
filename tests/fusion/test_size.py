from __future__ import annotations

import pytest

from tove_core.config import FusionConfig, GateConfig
from tove_core.errors import ConfigError
from tove_core.fusion import build_transfer, fusion_parameters
from tove_core.fusion.size import projector_hidden

KINDS = ["gate", "uniform", "concat", "clip-mlp"]


def count(config, width, experts):
    transfer = build_transfer(config, width, experts)
    return sum(parameter.numel() for parameter in transfer.parameters()) if transfer else 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("null", [False, True])
@pytest.mark.parametrize("hidden", [None, 1, 9])
@pytest.mark.parametrize("experts", [{}, {"a": 5}, {"a": 5, "b": 17, "c": 3}], ids=len)
def test_the_formula_counts_what_is_built(kind, null, hidden, experts):
    experts = {} if kind == "clip-mlp" else experts
    config = FusionConfig(kind=kind, hidden=hidden, gate=GateConfig(hidden=6, null=null))
    assert fusion_parameters(config, 12, list(experts.values())) == count(config, 12, experts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", [2000, 12345, 100_000])
def test_a_wanted_number_is_met_to_within_half_a_hidden_unit(kind, wanted):
    experts = {} if kind == "clip-mlp" else {"a": 33, "b": 48}
    config = FusionConfig(kind=kind, parameters=wanted, gate=GateConfig(hidden=6))
    got = count(config, 24, experts)
    hidden = projector_hidden(config, 24, list(experts.values()))
    wider = count(FusionConfig(kind=kind, hidden=hidden + 1, gate=config.gate), 24, experts)
    assert abs(got - wanted) <= (wider - got) / 2
    assert got == fusion_parameters(config, 24, list(experts.values()))


def test_all_kinds_can_be_given_equal_size():
    experts = {"a": 384, "b": 16}
    sizes = [
        count(FusionConfig(kind=kind, parameters=300_000), 128, {} if kind == "clip-mlp" else experts) for kind in KINDS
    ]
    assert max(sizes) - min(sizes) < 0.01 * 300_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_width_is_clips_when_nothing_else_is_said(kind):
    assert projector_hidden(FusionConfig(kind=kind), 24, [5]) == 24
    assert projector_hidden(FusionConfig(kind=kind, hidden=7), 24, [5]) == 7


def test_a_number_too_small_for_any_projector_is_refused():
    with pytest.raises(ConfigError, match=r"fusion\.parameters 100 leaves no room for a projector of kind 'gate'"):
        build_transfer(FusionConfig(parameters=100), 24, {"a": 5})
