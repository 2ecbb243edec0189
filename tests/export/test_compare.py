from __future__ import annotations

import pytest
import torch

from tove_core.errors import CheckpointError
from tove_core.export.compare import difference, probe_ids, probe_pixels


def test_the_largest_difference_and_value_are_reported():
    assert difference("image embeddings", torch.tensor([[-8.0, 2.0]]), torch.tensor([[-8.0, 2.0 + 2**-16]])) == (
        2**-16,
        8.0,
    )


@pytest.mark.parametrize("other", [[1.0, 2.001], [1.0, float("nan")], [1.0]])
def test_differences_of_value_shape_and_nan_are_errors(other):
    with pytest.raises(CheckpointError, match="image embeddings"):
        difference("image embeddings", torch.tensor([[1.0, 2.0]]), torch.tensor([other]))


def test_a_source_that_is_not_finite_is_an_error():
    values = torch.tensor([[float("nan")]])
    with pytest.raises(CheckpointError):
        difference("image embeddings", values, values)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_every_probe_text_ends_once_with_its_largest_id(length):
    ids = probe_ids(length, 61, 60)
    assert ids.shape == (3, length) and (ids == 60).sum(1).tolist() == [1, 1, 1]
    assert (ids.max(1).values == 60).all()


def test_probe_images_are_the_same_every_time():
    assert torch.equal(probe_pixels((5, 7)), probe_pixels((5, 7))) and probe_pixels((5, 7)).shape == (3, 3, 5, 7)
