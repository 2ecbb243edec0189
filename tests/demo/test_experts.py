"""The shipped experts keep their contract and know what they are for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from tove_core.demo.hooks import EXPERTS, tove_experts
from tove_core.demo.pretrain_clip import pixels
from tove_core.demo.pretrain_experts import RECIPES, centre_target, contact_target, depth_target, pretrain
from tove_core.demo.probe import load_expert
from tove_core.demo.rebuild import cost
from tove_core.demo.scene import Scenes
from tove_core.demo.shipped import asset, sha256
from tove_core.demo.splits import VALIDATION
from tove_core.spec import BuildContext, ExpertSpec, Grid

SPECS = {spec.name: spec for spec in tove_experts()}


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return VALIDATION.scenes(0, 250)


def build(spec: ExpertSpec) -> torch.nn.Module:
    module, function = spec.factory.split(":")
    return getattr(importlib.import_module(module), function)(BuildContext(spec=spec, options=spec.options))


def run(name: str, scenes: Scenes) -> torch.Tensor:
    with torch.no_grad():
        (output,) = load_expert(name)(pixels(scenes.image)).values()
    return output


def test_listing_the_experts_does_not_import_torch() -> None:
    code = "import sys, tove_core.demo.hooks as h; assert len(h.tove_experts()) == 5; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_hook_and_recipes_name_the_same_experts() -> None:
    assert tuple(SPECS) == EXPERTS == tuple(RECIPES)


@pytest.mark.parametrize("name", EXPERTS)
def test_factory_gives_what_the_spec_declares(name: str) -> None:
    spec = SPECS[name]
    model = build(spec).eval()
    found = model(torch.randn(3, 3, *spec.input.size))
    assert set(found) == set(spec.outputs)
    for output, grid in spec.outputs.items():
        assert isinstance(grid, Grid)
        height, width = (side // grid.stride for side in spec.input.size)
        assert found[output].shape == (3, grid.channels, height, width)


@pytest.mark.parametrize("name", EXPERTS)
def test_shipped_weights_are_those_the_spec_pins(name: str) -> None:
    weights = SPECS[name].weights
    assert weights is not None and weights.package == "tove_core.demo"
    file = asset(weights.file.removeprefix("assets/"))
    assert (sha256(file), file.stat().st_size) == (weights.sha256, weights.size)


@pytest.mark.parametrize("name", EXPERTS)
def test_declared_cost_is_the_measured_one(name: str) -> None:
    declared = SPECS[name].cost
    assert declared is not None
    assert cost(build(SPECS[name])) == {"params": declared.params, "flops": declared.flops}


def test_input_normalisation_is_the_one_used_in_training() -> None:
    image = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    for spec in SPECS.values():
        mean, std = (torch.tensor(v)[:, None, None] for v in (spec.input.mean, spec.input.std))
        assert torch.allclose((image / 255 - mean) / std, pixels(image), atol=1e-6)


@pytest.mark.parametrize(("name", "night"), [("world-depth-day", False), ("world-depth-night", True)])
def test_depth_experts_are_right_only_in_their_own_light(scenes: Scenes, name: str, night: bool) -> None:
    found, truth = run(name, scenes), depth_target(scenes)
    objects = F.avg_pool2d((scenes.instance > 0).float()[:, None], 2) == 1
    dark = F.avg_pool2d(scenes.night.float()[:, None], 2)
    own, other = (objects & (dark == float(light)) for light in (night, not night))
    assert torch.corrcoef(torch.stack([found[own], truth[own]]))[0, 1] > 0.9
    assert torch.corrcoef(torch.stack([found[other], truth[other]]))[0, 1] < 0.4


def test_centres_sum_to_the_number_of_objects(scenes: Scenes) -> None:
    heat = run("world-centre", scenes)
    assert (heat.sum((1, 2, 3)).round() == scenes.count).float().mean() > 0.7
    assert F.cosine_similarity(heat.flatten(1), centre_target(scenes).flatten(1)).mean() > 0.9


def test_contact_expert_finds_outlines(scenes: Scenes) -> None:
    chance, truth = run("world-contact", scenes), contact_target(scenes)
    assert (chance >= 0).all() and (chance.sum(1) <= 1 + 1e-5).all()
    for channel, least in ((0, 0.85), (1, 0.6)):
        found, real = chance[:, channel] > 0.5, truth == channel + 1
        assert 2 * (found & real).sum() / (found.sum() + real.sum()) > least


def test_the_blank_expert_does_not_look(scenes: Scenes) -> None:
    found = run("world-blank", scenes)
    assert torch.equal(found, found[:1].expand_as(found))
    assert found[0].std() > 0.1, "a constant map would vanish in the normalisation"


def test_contact_target_counts_only_objects_that_meet(scenes: Scenes) -> None:
    meets = (contact_target(scenes) == 2).flatten(1).any(1)
    assert torch.equal(meets, scenes.contact.flatten(1).any(1))


def test_training_lowers_the_loss_and_repeats_exactly(scenes: Scenes) -> None:
    logged: list[str] = []
    first = pretrain("world-depth-day", scenes, steps=8, report=logged.append)
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in logged]
    assert losses[-1] < losses[0]
    second = pretrain("world-depth-day", scenes, steps=8, report=logged.append)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
