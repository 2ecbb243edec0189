"""Captions say what is there, and the wrong ones are wrong in one thing."""

from __future__ import annotations

import re

import pytest

from tove_core.demo.captions import MENTIONED, clip_captions, scene_captions
from tove_core.demo.layout import COLOURS, KINDS, SIZE
from tove_core.demo.scene import Scenes, facts, render

OBJECT = re.compile(rf"a ({'|'.join(COLOURS)}) ({'|'.join(KINDS)})")


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return render(13, 0, 250)


def test_clip_captions_name_every_object(scenes: Scenes) -> None:
    for scene, (right, _, _) in zip(facts(scenes), clip_captions(scenes, 3), strict=True):
        assert sorted(OBJECT.findall(right)) == sorted(zip(scene.colours, scene.kinds, strict=True))


def test_wrong_captions_differ_by_one_kind_or_by_exchanged_colours(scenes: Scenes) -> None:
    for right, kind, colour in clip_captions(scenes, 3):
        told, other, swapped = (OBJECT.findall(text) for text in (right, kind, colour))
        changed = [(a, b) for a, b in zip(told, other, strict=True) if a != b]
        assert len(changed) == 1 and changed[0][0][0] == changed[0][1][0]
        assert [k for _, k in told] == [k for _, k in swapped]
        assert sorted(told) != sorted(swapped)
        differing = sum(a != b for a, b in zip(told, swapped, strict=True))
        assert differing == 2 or (differing == 1 and len({k for _, k in told}) == 1)


def test_captions_depend_on_seed_and_number_only(scenes: Scenes) -> None:
    assert clip_captions(scenes[9:20], 3, start=9) == clip_captions(scenes, 3)[9:20]
    assert clip_captions(scenes, 4) != clip_captions(scenes, 3)


def test_clip_captions_tell_nothing_but_colours_and_kinds(scenes: Scenes) -> None:
    said = " ".join(text for three in clip_captions(scenes, 3) for text in three)
    assert not re.search(r"left|right|front|behind|near|far|touch|\d", said)


def test_scene_captions_tell_order_and_side(scenes: Scenes) -> None:
    for scene, references in zip(facts(scenes), scene_captions(scenes), strict=True):
        assert len(set(references)) == len(references) or len(scene) == 1
        for text in references:
            told = re.findall(OBJECT.pattern + r" on the (left|right)", text)
            assert len(told) == min(MENTIONED, len(scene))
            slots = [scene.colours.index(colour) for colour, _, _ in told]
            assert [scene.z[k] for k in slots] == sorted(scene.z)[: len(slots)]
            assert [side for *_, side in told] == ["left" if scene.x[k] < SIZE / 2 else "right" for k in slots]
