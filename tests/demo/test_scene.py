"""Rendering is reproducible, and what is said about a scene is what its pixels show."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch.nn import functional

from tove_core.demo.layout import COLOURS, KINDS, SIZE, SLOTS, Layout, _grow, instance_map
from tove_core.demo.scene import CHUNK, Scenes, boundaries, colour_map, facts, kind_map, render


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return render(91, 0, 300)


def same(a: Scenes, b: Scenes) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Scenes))


def test_a_scene_is_the_same_whatever_range_it_is_rendered_in(scenes: Scenes) -> None:
    across = render(91, CHUNK - 3, CHUNK + 4)
    assert same(across, scenes[CHUNK - 3 : CHUNK + 4])
    assert not torch.equal(render(92, 0, 7).image, scenes[:7].image)


def test_what_is_done_to_rendered_scenes_changes_none_that_are_rendered_later() -> None:
    first, kept = render(93, 2, 9), render(93, 2, 9)
    for field in fields(Scenes):
        getattr(first, field.name).zero_()
    assert kept.image.any() and same(render(93, 2, 9), kept)


def test_shapes_and_types(scenes: Scenes) -> None:
    n = len(scenes)
    assert n == 300
    assert scenes.image.shape == (n, 3, SIZE, SIZE) and scenes.image.dtype == torch.uint8
    assert scenes.instance.shape == scenes.night.shape == scenes.depth.shape == (n, SIZE, SIZE)
    assert scenes.contact.shape == (n, SLOTS, SLOTS) and scenes.z.shape == (n, SLOTS)


def test_the_instance_map_shows_exactly_the_objects_there_are(scenes: Scenes) -> None:
    for instance, count in zip(scenes.instance, scenes.count.tolist(), strict=True):
        assert sorted(instance.unique().tolist()) == list(range(count + 1))


def test_the_depth_map_is_the_depth_of_the_object_seen(scenes: Scenes) -> None:
    for i in range(0, 300, 17):
        for slot in range(int(scenes.count[i])):
            seen = scenes.depth[i][scenes.instance[i] == slot + 1].float()
            assert (seen - scenes.z[i, slot]).abs().max() < 1e-3
    assert (scenes.depth[scenes.instance == 0] == 1).all()


def test_two_objects_touch_exactly_when_their_pixels_are_neighbours(scenes: Scenes) -> None:
    for i in range(0, 300, 11):
        instance = scenes.instance[i].tolist()
        close = set()
        for y in range(SIZE):
            for x in range(SIZE):
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if 0 <= y + dy < SIZE and 0 <= x + dx < SIZE:
                            a, b = instance[y][x], instance[y + dy][x + dx]
                            if a and b and a != b:
                                close.add((a - 1, b - 1))
        touching = {(a, b) for a, b in scenes.contact[i].nonzero().tolist()}
        assert touching == close


@pytest.mark.parametrize("pixels", [1, 2])
def test_masks_grow_by_whole_pixels_also_at_the_border(pixels: int) -> None:
    masks = (torch.rand(3, SLOTS, SIZE, SIZE, generator=torch.Generator().manual_seed(8)) < 0.02).float()
    masks[0, 0, 0, 0] = masks[0, 1, -1, -1] = masks[0, 2, 0, -1] = 1
    assert torch.equal(_grow(masks, pixels), functional.max_pool2d(masks, 2 * pixels + 1, 1, pixels))


def test_the_nearest_of_the_objects_that_cover_a_pixel_is_seen() -> None:
    draw = torch.Generator().manual_seed(9)
    z = torch.rand(7, SLOTS, generator=draw)
    distance = torch.randn(7, SLOTS, SIZE, SIZE, generator=draw)
    other = torch.zeros(7, SLOTS)
    layout = Layout(torch.tensor([1, 2, 3, 4, 5, 5, 2]), other.long(), other.long(), other, other, z, other)
    depth = z[:, :, None, None].expand_as(distance).clone()
    depth[(distance >= 0) | (torch.arange(SLOTS) >= layout.count[:, None])[:, :, None, None]] = 9
    wanted = torch.where(depth.amin(1) < 9, depth.argmin(1) + 1, 0)
    assert torch.equal(instance_map(layout, distance), wanted)


def test_objects_have_distinct_colours_and_repeated_kinds(scenes: Scenes) -> None:
    described = facts(scenes)
    assert all(len(set(d.colours)) == len(d) for d in described)
    assert any(len(set(d.kinds)) < len(d) for d in described)
    assert {c for d in described for c in d.colours} == set(COLOURS)
    assert {k for d in described for k in d.kinds} == set(KINDS)


def test_light_differs_between_and_within_images(scenes: Scenes) -> None:
    share = scenes.night.float().mean((1, 2))
    mixed = ((share > 0) & (share < 1)).float().mean()
    assert 0.35 < mixed < 0.65
    assert 0.15 < (share == 0).float().mean() < 0.35
    assert 0.15 < (share == 1).float().mean() < 0.35
    ground = scenes.instance == 0
    brightness = scenes.image.float().mean(1)
    assert brightness[ground & ~scenes.night].mean() > 2 * brightness[ground & scenes.night].mean()


def test_whiteness_means_far_by_day_and_near_by_night(scenes: Scenes) -> None:
    whiteness = scenes.image.float().amin(1) / scenes.image.float().amax(1).clamp(min=1)
    objects = scenes.instance > 0
    for night, sign in ((False, 1), (True, -1)):
        chosen = objects & (scenes.night == night)
        pair = torch.stack([whiteness[chosen], scenes.depth[chosen].float()])
        assert sign * torch.corrcoef(pair)[0, 1] > 0.2


def test_boundaries_are_where_an_object_ends() -> None:
    instance = torch.zeros(1, 7, 9, dtype=torch.uint8)
    instance[0, 2:5, 1:4] = 1
    instance[0, 2:5, 4:6] = 2
    expected = torch.zeros(7, 9, dtype=torch.int64)
    expected[2:5, 1:6] = 1
    expected[3, 2] = 0  # the only pixel with an object's own pixels all around
    expected[2:5, 3:5] = 2  # contact wins over edge
    assert torch.equal(boundaries(instance)[0], expected)


def test_kind_and_colour_maps_look_up_the_object_seen(scenes: Scenes) -> None:
    kinds, colours = kind_map(scenes), colour_map(scenes)
    for i in (0, 7, 123):
        for slot in range(int(scenes.count[i])):
            mask = scenes.instance[i] == slot + 1
            assert (kinds[i][mask] == scenes.kind[i, slot] + 1).all()
            assert (colours[i][mask] == scenes.colour[i, slot] + 1).all()
        assert (kinds[i][scenes.instance[i] == 0] == 0).all()
