from __future__ import annotations

import pytest
import torch
from tove_kernels import align_tokens

from tove_core import RegionBatch
from tove_core.errors import ConfigError, DataError
from tove_core.fusion import Align
from tove_core.fusion.align import aligned_width
from tove_core.spec import ExpertSpec, Grid, Input, Regions, Vector

GRID = (3, 5)


def spec(**outputs) -> ExpertSpec:
    return ExpertSpec(api=1, name="some", summary="Some.", factory="m:f", input=Input(size=(32, 48)), outputs=outputs)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_width_counts_folded_channels_of_all_outputs():
    many = spec(
        depth=Grid(channels=2, stride=8, norm="fixed", fold=4),
        all=Vector(channels=40),
        patches=Grid(channels=33, stride=16),
    )
    assert aligned_width(many) == 2 * 16 + 40 + 33
    assert Align(many, GRID).width == 105


def test_outputs_follow_each_other_in_the_channels_in_the_order_declared():
    align = Align(spec(depth=Grid(channels=2, stride=8, norm="none", fold=2), wide=Grid(channels=33, stride=16)), GRID)
    given = {"wide": draw(4, 33, 2, 3), "depth": draw(4, 2, 4, 6, seed=1)}
    got = align(given)
    assert got.shape == (4, 15, 41)
    torch.testing.assert_close(got[..., :8], align_tokens(given["depth"], GRID, fold=2))
    torch.testing.assert_close(got[..., 8:], align_tokens(given["wide"], GRID, norm="position"))


def test_a_vector_is_seen_by_every_token():
    values = draw(4, 40)
    tokens = Align(spec(all=Vector(channels=40, norm="none")), GRID)({"all": values})
    assert torch.equal(tokens, values[:, None].expand(4, 15, 40))
    normed = Align(spec(all=Vector(channels=40)), GRID)({"all": values})
    torch.testing.assert_close(normed[:, 7].square().mean(-1), torch.ones(4))


def test_fixed_statistics_are_those_of_all_positions_of_all_batches():
    align = Align(spec(depth=Grid(channels=2, stride=8, norm="fixed"), all=Vector(channels=3, norm="fixed")), GRID)
    assert align.needs_measuring
    maps, vectors = 5 * draw(7, 2, 4, 6) + 1000, draw(7, 3, seed=1)
    align.measure({"depth": maps[i:j], "all": vectors[i:j]} for i, j in ((0, 4), (4, 6), (6, 7)))
    statistics = dict(align.named_buffers())
    flat = maps.transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics["depth-mean"], flat.mean(1))
    torch.testing.assert_close(statistics["depth-std"], flat.std(1, correction=0))
    torch.testing.assert_close(statistics["all-std"], vectors.std(0, correction=0))
    got = align({"depth": maps, "all": vectors})
    want = (maps - flat.mean(1)[:, None, None]) / flat.std(1, correction=0)[:, None, None]
    torch.testing.assert_close(got[..., :2], align_tokens(want, GRID), rtol=1e-3, atol=1e-3)


def test_statistics_travel_with_the_state_and_others_have_none():
    align = Align(spec(depth=Grid(channels=2, stride=8, norm="fixed")), GRID)
    align.measure([{"depth": draw(3, 2, 4, 6) * 4}])
    again = Align(spec(depth=Grid(channels=2, stride=8, norm="fixed")), GRID)
    again.load_state_dict(align.state_dict())
    assert torch.equal(again({"depth": draw(1, 2, 4, 6)}), align({"depth": draw(1, 2, 4, 6)}))
    plain = Align(spec(wide=Grid(channels=33, stride=16)), GRID)
    assert not plain.needs_measuring
    assert plain.state_dict() == {}


def test_a_channel_that_never_varies_is_not_blown_up():
    align = Align(spec(depth=Grid(channels=2, stride=8, norm="fixed")), GRID)
    maps = draw(3, 2, 4, 6)
    maps[:, 1] = 0.3
    align.measure([{"depth": maps}])
    assert align({"depth": maps})[..., 1].abs().max() < 1e-5


class OnMps(torch.Tensor):
    """Has no float64 until it is brought to the CPU, as tensors on Apple's GPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cpu:
            return super().__torch_function__(function, types, args, kwargs).as_subclass(torch.Tensor)
        if function is torch.Tensor.double:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return super().__torch_function__(function, types, args, kwargs)


def test_statistics_are_taken_on_a_device_without_float64():
    maps, found = draw(3, 2, 4, 6), []
    for given in (maps, maps.as_subclass(OnMps)):
        align = Align(spec(depth=Grid(channels=2, stride=8, norm="fixed")), GRID)
        align.measure([{"depth": given}])
        found.append(dict(align.named_buffers())["depth-std"])
    assert torch.equal(*found)


@pytest.mark.parametrize("batches", [[], [{"depth": torch.full((1, 2, 4, 6), torch.nan)}]])
def test_statistics_of_nothing_are_refused_and_change_nothing(batches):
    align = Align(spec(depth=Grid(channels=2, stride=8, norm="fixed")), GRID)
    with pytest.raises(DataError, match=r"output 'depth' over .* has no finite statistics"):
        align.measure(batches)
    assert torch.equal(dict(align.named_buffers())["depth-std"], torch.ones(2))


def test_nothing_is_trained_and_no_gradient_passes():
    align = Align(spec(wide=Grid(channels=33, stride=16)), GRID)
    assert list(align.parameters()) == []
    assert not align({"wide": draw(1, 33, 2, 3).requires_grad_()}).requires_grad


def test_half_precision_gives_float32():
    align = Align(spec(wide=Grid(channels=33, stride=16)), GRID)
    assert align({"wide": draw(1, 33, 2, 3).bfloat16()}).dtype == torch.float32


class Lengths:
    """Embeds a string as a unit vector by its length."""

    width = 3

    def __call__(self, texts):
        return torch.eye(3)[[len(text) - 1 for text in texts]]


def regions(**given):
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.2, 1.0]]])
    return RegionBatch(boxes, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool), **given)


def test_texts_are_embedded_and_laid_onto_the_tokens_of_their_boxes():
    align = Align(spec(words=Regions(limit=2, text=True)), GRID, Lengths())
    assert align.width == aligned_width(spec(words=Regions(limit=2, text=True)), Lengths()) == 7
    tokens = align({"words": regions(text=[["abc", "ab"]])}).unflatten(1, GRID)
    torch.testing.assert_close(tokens[0, :, 0, :4], torch.tensor([0, 3**0.5, 0, 1.0]).expand(3, 4))
    assert torch.equal(tokens[0, :, 1:], torch.zeros(3, 4, 7))


def test_of_region_features_only_the_direction_counts():
    align = Align(spec(parts=Regions(limit=2, channels=2), all=Vector(channels=3, norm="none")), GRID)
    features = torch.tensor([[[0.0, 0.0], [-30.0, 40.0]]])
    tokens = align({"parts": regions(features=features), "all": torch.ones(1, 3)}).unflatten(1, GRID)
    assert align.width == 2 + 4 + 3
    torch.testing.assert_close(tokens[0, :, 0, :2], torch.tensor([-0.6, 0.8]).expand(3, 2) * 2**0.5)
    assert torch.equal(tokens[..., 6:], torch.ones(1, *GRID, 3))


def test_regions_without_meaning_say_where_something_is():
    align = Align(spec(boxes=Regions(limit=9)), GRID)
    assert align.width == 4 and not align.needs_measuring
    assert align({"boxes": regions()}).unflatten(1, GRID)[0, 0, :2, 0].tolist() == [1.0, 0.0]
    align.measure([{"boxes": regions()}])


@pytest.mark.parametrize("texts", [None, type("Mute", (Lengths,), {"width": None})()])
def test_text_without_anything_to_embed_it_is_refused_by_name(texts):
    with pytest.raises(ConfigError, match="'some': output 'words' holds text and this CLIP has no text tower"):
        Align(spec(words=Regions(limit=9, text=True)), GRID, texts)
