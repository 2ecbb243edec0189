from __future__ import annotations

from typing import Any

import pytest
import torch

from tove_core.data.sample import Sample
from tove_core.evaluation.cost import measure_cost
from tove_core.operations import counted


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_a_sample_of_several_images_costs_as_many_encodings(toy: Any) -> None:
    model = toy.build()
    one, *others = toy.pictures(3)
    alone, together = (
        measure_cost(model, Sample("1", image, "what?", ("a",)), None, max_new_tokens=1)
        for image in (one, (one, *others))
    )
    assert 2.5 < together.gflop / alone.gflop < 3.5
    assert "GFLOP alone" in str(together) and "samples/s" not in str(together)


def test_the_operations_of_a_tower_without_gradients_are_all_counted(toy: Any) -> None:
    tower = toy.build(["toy-fine"], decoder=None).tower
    with torch.no_grad(), counted() as counter:
        tower(torch.zeros(1, 3, 40, 40))
    tokens, width, blocks = 26, 32, 2  # 5x5 patches of 8x8 and the class token; the last of three blocks is not run
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    assert counter.get_total_flops() == 2 * (25 * width * 3 * 8 * 8 + blocks * block)


def test_counting_leaves_attention_as_fast_as_it_was() -> None:
    for fast in (False, True):
        torch.backends.mha.set_fastpath_enabled(fast)
        with pytest.raises(KeyError), counted():
            assert not torch.backends.mha.get_fastpath_enabled()
            raise KeyError
        assert torch.backends.mha.get_fastpath_enabled() is fast
