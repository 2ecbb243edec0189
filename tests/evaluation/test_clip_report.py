from __future__ import annotations

from typing import Any

import pytest

from tove_core.config import ClipConfig
from tove_core.data.sample import Sample
from tove_core.evaluation.clip_report import report_tower
from tove_core.evaluation.clip_tower import own_view, retrieve, zero_shot
from tove_core.tower import load_tower

CLASSES = ["red", "green", "blue", "black"]


@pytest.fixture(scope="module")
def tower(toy: Any) -> Any:
    return load_tower(ClipConfig(name=toy.reading_clip))


@pytest.fixture(scope="module")
def samples(toy: Any) -> list[Sample]:
    made = [Sample(f"s{n}", image, None, (CLASSES[n % 4], f"a {n}")) for n, image in enumerate(toy.pictures(11))]
    return [*made, Sample("twin", made[2].image, None, ("blue",))]


def test_a_tower_is_scored_under_toves_view_and_under_its_own_transform(tower: Any, samples: list[Sample]) -> None:
    def measure(view: Any) -> Any:
        return zero_shot(tower, samples, CLASSES, view=view)

    assert own_view(tower) == "crop"
    found = report_tower(tower, samples, measure, own_transform=True)
    assert list(found.views) == ["squash", "crop, the tower's own transform"]
    assert (found.samples, found.images) == (12, 11)
    for rows, view in zip(found.views.values(), ("squash", None), strict=True):
        plain = zero_shot(tower, samples, CLASSES, view=view)
        assert [(row.name, row.value, row.n) for row in rows] == [(one.name, one.value, 12) for one in plain]
        assert all(row.low <= row.value <= row.high for row in rows)
    assert list(report_tower(tower, samples, measure).views) == ["squash"]
    same = report_tower(tower, samples, measure, view="crop", own_transform=True)
    assert list(same.views) == ["crop, which is the tower's own transform"]
    assert found.plain()["views"]["squash"]["top-1"]["n"] == 12 and "view: squash" in str(found)


def test_texts_of_one_image_are_drawn_together(tower: Any, samples: list[Sample]) -> None:
    found = report_tower(tower, samples, lambda view: retrieve(tower, samples, view=view).values())
    rows = {row.name: row for row in found.views["squash"]}
    assert rows["image to text R@1"].n == 11 and rows["text to image R@1"].n == 23
    assert rows["text to image R@1"].low is not None
    alone = [one for one in samples if one.image == samples[2].image]
    lone = report_tower(tower, alone, lambda view: retrieve(tower, alone, view=view).values())
    assert all(row.low is None for row in lone.views["squash"]), "one image has no interval, however many texts"
