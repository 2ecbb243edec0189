from __future__ import annotations

from typing import Any

import pytest

from tove_core.data.sample import Sample
from tove_core.evaluation.cost import measure_cost


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
