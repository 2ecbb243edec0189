from __future__ import annotations

import pytest
import torch

from tove_core.config import GateConfig
from tove_core.errors import ConfigError
from tove_core.fusion import Gate


def gate(names=("a", "b", "c"), **given) -> Gate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        built = Gate(10, names, GateConfig(hidden=6, **given))
        for k, row in enumerate([*built.rows.values(), *([built.null] if built.null is not None else [])]):
            torch.nn.init.normal_(row.weight)
            torch.nn.init.constant_(row.bias, float(k))
    return built


@pytest.fixture
def tokens():
    return torch.randn(4, 7, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("null", [False, True])
def test_the_first_logits_are_zero(tokens, null):
    fresh = Gate(10, ["a", "b"], GateConfig(hidden=6, null=null))
    assert torch.equal(fresh(tokens, ["a", "b"]), torch.zeros(4, 7, 2 + null))


def test_rows_come_in_the_order_asked_for_then_ghosts_then_null(tokens):
    built = gate(null=True)
    a, b, c, null = built(tokens, ["a", "b", "c"]).unbind(-1)
    torch.testing.assert_close(built(tokens, ["c", "a"]), torch.stack([c, a, b, null], -1))
    torch.testing.assert_close(built(tokens, ["b"], without=["a"]), torch.stack([b, c, null], -1))


def test_logits_differ_from_token_to_token_and_depend_on_nothing_but_the_token(tokens):
    built = gate()
    logits = built(tokens, ["a", "b", "c"])
    assert logits.std(1).min() > 0.01
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(built(tokens[:, order], ["a", "b", "c"]), logits[:, order])


def test_temperature_divides_the_logits(tokens):
    warm, plain = gate(temperature=4.0), gate()
    torch.testing.assert_close(warm(tokens, ["a", "b", "c"]), plain(tokens, ["a", "b", "c"]) / 4)


def test_the_scale_of_the_tokens_does_not_matter(tokens):
    built = gate()
    torch.testing.assert_close(built(1000 * tokens, ["a"]), built(tokens, ["a"]), rtol=1e-3, atol=1e-3)


def test_noise_belongs_to_the_sample_and_not_to_the_batch(tokens):
    built, names, keys = gate(), ["a", "b", "c"], torch.tensor([11, 22, 33, 44])
    plain, noisy = built(tokens, names), built(tokens, names, keys=keys, noise=0.3)
    assert 0.2 < float((noisy - plain).detach().std()) < 0.4
    order = torch.tensor([2, 0])
    torch.testing.assert_close(built(tokens[order], names, keys=keys[order], noise=0.3), noisy[order])
    torch.testing.assert_close(built(tokens[3:], names, keys=keys[3:], noise=0.3), noisy[3:])
    assert torch.equal(built(tokens, names, keys=keys, noise=0.3), noisy)


def test_without_noise_keys_change_nothing(tokens):
    assert torch.equal(gate()(tokens, ["a"], keys=torch.arange(4)), gate()(tokens, ["a"]))


def test_noise_without_keys_is_refused(tokens):
    with pytest.raises(ConfigError, match=r"noise 0\.3 was asked for without keys"):
        gate()(tokens, ["a"], noise=0.3)


def test_a_new_expert_can_join_without_changing_the_others(tokens):
    built = gate(("a", "b"))
    before = built(tokens, ["a", "b"])
    built.rows["new"] = built._row()
    torch.testing.assert_close(built(tokens, ["a", "b", "new"])[..., :2], before)
    assert torch.equal(built(tokens, ["new"])[..., 0], torch.zeros(4, 7))
