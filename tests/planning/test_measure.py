from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from tove_core.planning.measure import Run, parameters, run, tensor_bytes

META = torch.device("meta")


def test_products_convolutions_and_nothing_else_are_counted() -> None:
    with META:
        linear, conv, pixels = nn.Linear(7, 11), nn.Conv2d(3, 5, 3, stride=2), torch.empty(2, 3, 13, 17)
    assert run(lambda: linear(torch.empty(6, 7, device=META))).flops == 2 * 6 * 7 * 11
    assert run(lambda: conv(pixels)).flops == 2 * 2 * 5 * 6 * 8 * (3 * 9)
    assert run(lambda: functional.gelu(pixels)).flops == 0


def test_the_peak_is_what_is_alive_at_once_and_not_the_sum() -> None:
    with META:
        chain = nn.Sequential(nn.Linear(10, 100), nn.Linear(100, 40), nn.Linear(40, 3))
        given = torch.empty(5, 10)
    assert run(lambda: chain(given)).peak == 4 * 5 * (100 + 40)
    assert run(lambda: [chain[0](given), chain[0](given)]).peak == 4 * 5 * 200  # both are kept


def test_views_and_writing_in_place_take_no_memory() -> None:
    given = torch.empty(5, 10, device=META)
    assert run(lambda: given.view(10, 5)[2:].mT).peak == 0
    assert run(lambda: given.add_(1)).peak == 0
    assert run(lambda: (given + 1).relu_().view(-1)).peak == 200


def test_precision_and_batch_scale_the_peak() -> None:
    def through(batch: int, dtype: torch.dtype) -> Run:
        linear = nn.Linear(10, 30, device=META, dtype=dtype)
        return run(lambda: linear(torch.empty(batch, 10, device=META, dtype=dtype)))

    for dtype, width in ((torch.float32, 4), (torch.bfloat16, 2)):
        one, three = through(1, dtype), through(3, dtype)
        assert one.peak == width * (10 + 30) and three.peak == 3 * one.peak and three.flops == 3 * one.flops


@pytest.mark.parametrize("keys", [4, 2, 1])
def test_attention_is_counted_as_fused_also_with_shared_keys(keys: int) -> None:
    query = torch.empty(2, 4, 90, 8, device=META)
    key, value = (torch.empty(2, keys, 70, 8, device=META) for _ in range(2))
    attention = functional.scaled_dot_product_attention
    found = run(lambda: attention(query, key, value, enable_gqa=keys < 4))
    assert found.flops == 2 * (2 * 2 * 4 * 90 * 70 * 8)
    assert 4 * 2 * 4 * 90 * 8 <= found.peak < 4 * 2 * 4 * 90 * 70  # its output, never the matrix of scores


def test_attention_without_heads_keeps_its_shape() -> None:
    query = torch.empty(3, 9, 8, device=META)
    shapes = []
    run(lambda: shapes.append(functional.scaled_dot_product_attention(query, query, query).shape))
    assert shapes == [(3, 9, 8)]


def test_gradients_keep_what_the_backward_pass_needs() -> None:
    with META:
        chain = nn.Sequential(*[nn.Sequential(nn.Linear(20, 20), nn.GELU()) for _ in range(6)])
        given = torch.empty(7, 20)
    without, kept = run(lambda: chain(given)), run(lambda: chain(given), gradients=True)
    # Without: what a block was given, its middle and its result. With: the middle and the result of every block.
    assert without.peak == 4 * 7 * 20 * 3 and kept.peak == 4 * 7 * 20 * 12
    assert torch.is_grad_enabled()


def test_a_call_that_fails_is_counted_up_to_there_where_that_is_wanted() -> None:
    linear, given = nn.Linear(7, 11, device=META), torch.empty(6, 7, device=META)
    found = run(lambda: linear(given).sum().item(), partial=True)
    assert found.flops == 2 * 6 * 7 * 11 and found.peak >= 4 * 6 * 11 and found.stopped and "item" in found.stopped
    assert run(lambda: linear(given), partial=True).stopped is None
    with pytest.raises(RuntimeError, match="item"):
        run(lambda: linear(given).sum().item())


def test_parameters_and_bytes_of_a_module() -> None:
    with META:
        module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).to(torch.bfloat16)
    shared = nn.Linear(3, 3, device=META)
    assert parameters(module) == 20 + 10 and tensor_bytes(module) == 2 * (20 + 10 + 10) + 8
    assert parameters(nn.Sequential(shared, shared)) == 12
