from __future__ import annotations

import json
from collections import Counter

import pytest

from tove_core.config import DataConfig
from tove_core.data.batches import BatchSampler, Share, mixture_parts
from tove_core.data.readers import read
from tove_core.errors import ConfigError, DataError
from tove_core.settings import read_config


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    for name, count in (("one", 5), ("two", 3)):
        rows = [json.dumps({"image": "a.png", "text": f"{name} {n}"}) for n in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return tmp_path


def mixed(folder, **weights: float) -> DataConfig:
    parts = [{"path": folder / f"{name}.jsonl", "name": name, "weight": w} for name, w in weights.items()]
    return DataConfig(mixture=parts)


def test_parts_keep_their_order_and_put_their_name_before_ids(files):
    samples = read(mixed(files, one=0.5, two=2))
    assert [s.id for s in samples[:2]] == ["one/line 1", "one/line 2"] and samples[5].id == "two/line 1"
    assert mixture_parts(samples) == (Share(0, 5, 0.5), Share(5, 3, 2.0))
    assert mixture_parts(read(mixed(files, one=1, two=1))) == (), "it is then one data set like any other"


def test_a_limit_counts_for_each_part(files):
    config = mixed(files, one=1, two=2).model_copy(update={"limit": 2})
    assert [s.id for s in read(config)] == ["one/line 1", "one/line 2", "two/line 1", "two/line 2"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"mixture": [{"reader": "pope"}, {"reader": "pope"}]}, "both called 'pope'; give one of them a name"),
        ({"path": "x", "mixture": [{"reader": "pope"}]}, "path beside mixture would do nothing"),
        ({"mixture": [{"wieght": 2}]}, "did you mean 'weight'"),
        ({"mixture": [{"weight": 0}]}, "greater than 0"),
    ],
)
def test_mixtures_that_say_two_things_are_refused(data, words):
    with pytest.raises(ConfigError, match=words):
        read_config(DataConfig, None, [f"{key}={json.dumps(value)}" for key, value in data.items()])


PARTS = (Share(0, 7, 1.0), Share(7, 5, 2.0), Share(12, 10, 0.3))


def drawn(epochs: int, batch: int = 4, seed: int = 3) -> list[int]:
    sampler = BatchSampler(22, batch, seed, PARTS)
    assert sampler.per_epoch == 7 + 10 + 3
    return [i for step in range(epochs * sampler.per_epoch // batch) for i in sampler.batch(step)]


def test_each_part_has_its_exact_share_of_every_epoch():
    order = drawn(6)
    for epoch in range(6):
        counts = Counter(order[20 * epoch : 20 * (epoch + 1)])
        assert [counts[i] for i in range(7)] == [1] * 7
        assert [counts[i] for i in range(7, 12)] == [2] * 5
        assert sum(counts[i] for i in range(12, 22)) == 3


def test_samples_of_a_part_come_equally_often_however_odd_its_weight():
    for epochs in (1, 4, 10, 11):
        counts = Counter(drawn(epochs))
        rare = [counts[i] for i in range(12, 22)]
        assert max(rare) - min(rare) <= 1
        assert sum(rare) == 3 * epochs


def test_steps_of_a_mixture_can_be_asked_in_any_order_and_shares_make_up_the_batch():
    late, early = BatchSampler(22, 6, 1, PARTS), BatchSampler(22, 6, 1, PARTS)
    wanted = [early.batch(step) for step in range(30)]
    assert late.batch(29) == wanted[29] and late.batch(3) == wanted[3]
    assert sorted(late.batch(17, 0, 2) + late.batch(17, 1, 2)) == sorted(wanted[17])
    assert wanted != [BatchSampler(22, 6, 2, PARTS).batch(step) for step in range(30)]


def test_parts_that_do_not_cover_the_data_are_refused():
    with pytest.raises(DataError, match="hold 22 samples of 23"):
        BatchSampler(23, 4, 0, PARTS)
