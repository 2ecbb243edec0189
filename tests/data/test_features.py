from __future__ import annotations

import json

import pytest
import torch

from tove_core.data.features import FeatureTable
from tove_core.data.fingerprint import canonical, difference
from tove_core.errors import DataError

FINGERPRINT = {"clip": {"name": "tiny", "layer": -2}, "experts": ["edges"], "size": (32, 48)}


def encode(images):
    """Features that tell images apart: clip [B, 3, 5], edges [B, 3, 2]."""
    value = torch.tensor(images, dtype=torch.float32)[:, None, None]
    return {"clip": value + torch.arange(15).reshape(3, 5) / 7, "edges": -value.expand(-1, 3, 2) / 3}


@pytest.fixture
def table():
    return FeatureTable.build(encode, list(range(7)), FINGERPRINT, batch_size=3, dtype="float32")


def test_gathering_gives_what_encoding_those_images_gives(table):
    wanted = encode([5, 0, 5, 6])
    for indices in ([5, 0, 5, 6], torch.tensor([5, 0, 5, 6])):
        found = table.gather(indices)
        assert found.keys() == wanted.keys()
        for name, feature in wanted.items():
            torch.testing.assert_close(found[name], feature, rtol=0, atol=0)
    assert table.gather([])["clip"].shape == (0, 3, 5)


def test_each_image_is_encoded_once_without_gradients_and_progress_is_told():
    seen, told = [], []
    weight = torch.ones(1, requires_grad=True)

    def counting(images):
        seen.extend(images)
        return {name: feature * weight for name, feature in encode(images).items()}

    table = FeatureTable.build(
        counting, list(range(7)), {}, batch_size=3, progress=lambda done, total: told.append((done, total))
    )
    assert seen == list(range(7))
    assert told == [(3, 7), (6, 7), (7, 7)]
    assert not table.gather([1])["clip"].requires_grad


def test_float16_halves_the_table_and_gathers_float32_close_by(table):
    half = FeatureTable.build(encode, list(range(7)), FINGERPRINT, dtype="float16")
    size, wanted = (sum(f.nbytes for f in one.features.values()) for one in (half, table))
    assert size * 2 == wanted == 7 * 3 * 7 * 4
    found = half.gather([2, 4])["clip"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, table.gather([2, 4])["clip"], rtol=5e-4, atol=0)


def test_what_float16_cannot_hold_is_refused_and_float32_keeps_it():
    def large(images):
        return {"clip": torch.full((len(images), 2, 2), 7e4) * (torch.tensor(images) == 4)[:, None, None]}

    with pytest.raises(DataError, match=r"'clip' reaches 7e\+04 at image 4.*use float32"):
        FeatureTable.build(large, list(range(7)), {}, batch_size=3, dtype="float16")
    kept = FeatureTable.build(large, list(range(7)), {}, batch_size=3, dtype="float32")
    assert kept.gather([4])["clip"].max() == 7e4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused_by_name_and_image(bad):
    def broken(images):
        features = encode(images)
        features["edges"][torch.tensor(images) == 5, 1, 1] = bad
        return features

    with pytest.raises(DataError, match="'edges' of image 5 is not finite"):
        FeatureTable.build(broken, list(range(7)), {}, batch_size=3, dtype="float32")


def test_features_that_change_between_batches_are_refused():
    def shrinking(images):
        return {"clip": torch.zeros(len(images), 3 if 0 in images else 2, 5)}

    def losing(images):
        return encode(images) if 0 in images else {"clip": encode(images)["clip"]}

    with pytest.raises(DataError, match=r"images 3 to 5 is \[3, 2, 5\] float32, but \[3, 3, 5\] is wanted"):
        FeatureTable.build(shrinking, list(range(7)), {}, batch_size=3)
    with pytest.raises(DataError, match="edges are given for some images only"):
        FeatureTable.build(losing, list(range(7)), {}, batch_size=3)
    with pytest.raises(DataError, match=r"\[B, N, C\] is wanted"):
        FeatureTable.build(lambda images: {"clip": torch.zeros(len(images), 5)}, [1, 2], {})


@pytest.mark.parametrize("index", [7, -1])
def test_indices_outside_the_table_are_refused(table, index):
    with pytest.raises(DataError, match=f"image {index} was asked of a table of 7 images"):
        table.gather([0, index])


def test_tables_without_a_meaning_are_refused():
    with pytest.raises(DataError, match="without features"):
        FeatureTable({}, {})
    with pytest.raises(DataError, match="differ in their number of images or dtype"):
        FeatureTable({"a": torch.zeros(2, 3, 4), "b": torch.zeros(3, 3, 4)}, {})
    with pytest.raises(DataError, match=r"\[M, N, C\]"):
        FeatureTable({"a": torch.zeros(2, 3, 4, dtype=torch.int64)}, {})
    with pytest.raises(DataError, match="both must be positive"):
        FeatureTable.build(encode, [], {})
    with pytest.raises(DataError, match="not JSON"):
        FeatureTable({"a": torch.zeros(2, 3, 4)}, {"x": torch.zeros(1)})


def test_fingerprints_are_compared_as_json_and_long_differences_are_cut():
    assert difference(canonical(FINGERPRINT), json.loads(json.dumps(FINGERPRINT))) == ""
    assert difference(canonical({"a": {}}), canonical({})) == "a is {} there and absent here"
    assert (
        difference(canonical({"a": {"b": 1}}), canonical({"a": 1}))
        == "a is absent there and 1 here, a.b is 1 there and absent here"
    )
    many = difference(canonical(dict.fromkeys("abcde", 1)), canonical(dict.fromkeys("abcde", 2)))
    assert many.endswith("and 2 more")
