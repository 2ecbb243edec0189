"""On a device without float64, as MPS is, everything that may run there runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tove_core import plugins
from tove_core.config import TrainingConfig
from tove_core.hub.load import load_expert
from tove_core.language.likelihood import likelihoods
from tove_core.selection import select
from tove_core.testing.bench import fitted, small
from tove_core.testing.images import pixels
from tove_core.training.loop import fit

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def narrow(device: str) -> Iterator[None]:
    if device != "sim":
        pytest.skip("a real device is under test")
    from simulated import wide

    wide["float64"] = False
    yield
    wide["float64"] = True


def test_float64_is_refused() -> None:
    with pytest.raises(TypeError, match="no float64"):
        torch.zeros(3, device="sim").double()


def test_a_model_is_trained_asked_and_lets_experts_be_selected(
    toy: Any, device: str, near: Callable[..., None]
) -> None:
    found = []
    for place in (device, "cpu"):
        model = toy.build(device=place)
        examples = toy.examples(model)
        fit(model, examples, TrainingConfig(steps=2, batch_size=5, warmup=1), seed=0, quiet=True)
        tokens = model.tokens(toy.pictures())
        found.append((tokens, likelihoods(model.decoder, tokens, ["is it black?"] * 3, ["yes", "no", "red"])))
        report = select(model, examples, 0.5, steps=2)
        assert report.samples["scored"] > 0 and model.selects
    (there, told), (here, wanted) = found
    near(there, here)
    assert [one.log_probability for one in told] == pytest.approx([one.log_probability for one in wanted], rel=1e-4)
    assert [(one.greedy, one.tokens) for one in told] == [(one.greedy, one.tokens) for one in wanted]


@pytest.mark.parametrize("name", ["pp-ocr", "detr", "owlv2", "mask2former", "sam2", "dinov2"])
def test_an_architecture_computes_without_float64(name: str, device: str) -> None:
    spec = small(plugins.registry().resolve(name).spec.variant())
    expert, _ = load_expert(spec, name=name, weights="random")
    images = pixels(spec.input, 2)
    expert = fitted(expert, images)
    expert.module.to(device)
    assert expert(images.to(device)).keys() == spec.outputs.keys()
