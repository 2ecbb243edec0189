"""A model called as a module: what `tokens` gives, with gradients for what is trained."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tove_core.errors import ConfigError, ImageError, UnknownExpertError
from tove_core.fusion import Fused
from tove_core.fusion.gated import GatedTransfer
from tove_core.fusion.noise import sample_keys, sample_mask
from tove_core.training.step import TransferStep


@pytest.fixture
def model(toy: Any) -> Any:
    """A calibrated model of tokens alone, whose gate and shared linear already pass gradients to each other."""
    built = toy.build(decoder=None)
    built.calibrate(toy.pictures(4))
    draw = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for row in built.fusion.gate.rows.values():
            row.weight.copy_(torch.randn(row.weight.shape, generator=draw))
    return built


def batch() -> torch.Tensor:
    return torch.rand(3, 3, 37, 53, generator=torch.Generator().manual_seed(2))


def test_files_a_tensor_and_seen_images_give_what_tokens_gives(toy: Any, model: Any) -> None:
    pictures, pixels = toy.pictures(), batch()
    for images in (pictures, pixels, list(pixels), pictures[0]):
        assert torch.equal(model(images), model.tokens(images))
    see = model.preprocessor().see
    assert torch.equal(model([see(image) for image in pictures]), model.tokens(pictures))
    assert not torch.equal(model(pixels), model.encode(pixels)["clip"])


def test_gradients_reach_all_of_the_fusion_and_nothing_else(model: Any) -> None:
    tokens = model(batch())
    assert tokens.requires_grad
    tokens.square().mean().backward()
    for name, parameter in model.named_parameters():
        trained = name.startswith("fusion.")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == trained, name


def test_a_gradient_is_the_change_of_the_loss(model: Any) -> None:
    pixels, weight = batch(), model.fusion.second.weight
    loss = lambda: model(pixels).double().square().mean()  # noqa: E731
    loss().backward()
    direction = weight.grad / weight.grad.norm()
    with torch.no_grad():
        before = weight.clone()
        weight.copy_(before + 1e-2 * direction)
        above = loss()
        weight.copy_(before - 1e-2 * direction)
        slope = (above - loss()) / 2e-2
    assert slope.item() == pytest.approx(weight.grad.norm().item(), rel=1e-2)


def test_without_grad_mode_nothing_is_recorded(model: Any) -> None:
    with torch.no_grad():
        assert not model(batch()).requires_grad
    model.fusion.requires_grad_(False)
    assert not model(batch()).requires_grad


def test_with_every_expert_off_it_gives_clips_own_tokens(toy: Any, model: Any) -> None:
    for name in toy.experts:
        model.detach(name)
    assert torch.equal(model(batch()), model.encode(batch())["clip"])
    assert torch.equal(toy.build([], decoder=None)(batch()), model.encode(batch())["clip"])


def test_mask_keys_and_noise_reach_the_fusion(model: Any) -> None:
    pixels, keys = batch(), sample_keys(7, [0] * 3, [4, 5, 6])
    mask = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    given = model(pixels, mask=mask, keys=keys, noise=0.5)
    wanted = model.fuse(model.encode(pixels), mask=mask, keys=keys, noise=0.5).tokens
    assert torch.equal(given, wanted) and not torch.equal(given, model(pixels))
    assert torch.equal(given[2], model.encode(pixels)["clip"][2])
    with pytest.raises(ConfigError, match="without keys"):
        model(pixels, noise=0.5)
    with pytest.raises(ConfigError, match=r"the mask is torch.bool \[3, 2\]; wanted \[3, 3\]"):
        model(pixels, mask=mask[:, :2])
    with pytest.raises(ConfigError, match=r"the keys are torch.int64 \[1\]; wanted torch.int64 \[3\], one for each"):
        model(pixels, keys=keys[:1], noise=0.5)


def test_a_loop_of_ones_own_explores_as_training_does(toy: Any) -> None:
    model = toy.build()
    examples = toy.examples(model)
    features, samples = examples.features([0, 1, 4, 5]), [toy.samples()[i] for i in (0, 1, 4, 5)]
    prompts, targets = [sample.prompt or "what is it?" for sample in samples], [one.targets[0] for one in samples]
    keys = sample_keys(3, [0] * 4, [0, 1, 4, 5])
    with torch.no_grad():
        wanted = TransferStep(model.fusion, model.decoder)(
            features, prompts, targets, keys=keys, noise=0.3, dropout=0.4
        )
        mask = sample_mask(keys, len(model.fusion.experts), 0.4)
        fused = model.fuse(features, mask=mask, keys=keys, noise=0.3)
        loss = model.decoder(fused.tokens, prompts, targets).loss_sum
    assert not mask.all() and torch.equal(loss, wanted.loss)
    assert torch.equal(fused.gates.sum((0, 1)), wanted.mass)


def test_what_prepares_images_can_be_sent_to_another_process(toy: Any, model: Any) -> None:
    see = pickle.loads(pickle.dumps(model.preprocessor())).see
    seen = pickle.loads(pickle.dumps([see(image) for image in toy.pictures()]))
    assert torch.equal(model(seen), model.tokens(toy.pictures()))


def test_no_image_is_an_error(model: Any) -> None:
    with pytest.raises(ImageError, match="no images"):
        model([])


@pytest.mark.parametrize(("decoder", "off"), [(None, False), ("", False), (None, True)])
def test_distributed_data_parallel_takes_many_steps_where_it_knows_what_gets_no_gradient(
    toy: Any, tmp_path: Path, decoder: Any, off: bool
) -> None:
    model = toy.build(decoder=decoder)
    model.calibrate(toy.pictures(4))
    if off:
        model.detach("toy-wide")
    steps = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    told = decoder is not None or off
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=told)
        before = model.fusion.second.weight.clone()
        for _ in range(3):
            steps.zero_grad()
            parallel(batch()).square().mean().backward()
            steps.step()
        assert not torch.equal(model.fusion.second.weight, before)
    finally:
        torch.distributed.destroy_process_group()


def test_distributed_data_parallel_calls_it(model: Any, toy: Any, tmp_path: Path) -> None:
    pixels = batch()
    model(pixels).square().mean().backward()
    alone = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model)
        assert torch.equal(parallel(toy.pictures()), model.tokens(toy.pictures()))
        parallel(pixels).square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert alone and all(torch.allclose(model.get_parameter(name).grad, grad) for name, grad in alone.items())


@pytest.mark.parametrize("only", ["clip", 3, [1], b"clip"])
def test_who_is_to_be_run_is_given_as_a_list_of_names(toy: Any, model: Any, only: Any) -> None:
    for ask in (lambda: model.encode(batch(), only=only), lambda: model.preprocessor(only)):
        with pytest.raises(ConfigError, match=r"only is .*; give a list of names"):
            ask()


def test_images_are_prepared_for_nobody_that_the_model_does_not_hold(model: Any) -> None:
    with pytest.raises(UnknownExpertError, match=r"prepared for \['nope'\]; this model holds clip, toy-"):
        model.preprocessor(["clip", "nope"])
    model.detach("toy-wide")
    assert list(model.preprocessor(["toy-wide"]).inputs) == ["toy-wide"]


def test_a_model_without_experts_takes_the_same_options(toy: Any) -> None:
    plain = toy.build([], decoder=None)
    assert torch.equal(plain(batch(), keys=torch.arange(3), noise=0.1), plain.tokens(batch()))
    with pytest.raises(TypeError, match="maks"):
        plain(batch(), maks=3)


class Counting(GatedTransfer):
    """Counts its own calls."""

    calls = 0

    def forward(self, tokens: Any, features: Any, **options: Any) -> Fused:
        self.calls += 1
        return super().forward(tokens, features, **options)


def test_the_fusion_that_runs_is_the_models_own_with_its_state_and_its_hooks(toy: Any, model: Any) -> None:
    model.fusion.__class__ = Counting
    hooked = []
    model.fusion.register_forward_hook(lambda module, *_: hooked.append(module))
    for ask in (model, model.tokens, model.gates):
        ask(toy.pictures())
    assert model.fusion.calls == 3 and all(module is model.fusion for module in hooked) and len(hooked) == 3


@pytest.mark.parametrize("compiled", ["in place", "wrapped"])
def test_a_compiled_fusion_is_what_runs_and_can_be_switched_and_saved(
    toy: Any, model: Any, tmp_path: Path, compiled: str
) -> None:
    runs = []

    def backend(graph: Any, _: Any) -> Any:
        return lambda *values: runs.append(1) or graph.forward(*values)

    torch.compiler.reset()
    pixels, wanted = batch(), model.tokens(batch())
    if compiled == "in place":
        model.fusion.compile(backend=backend, fullgraph=True)
    else:
        model.fusion = torch.compile(model.fusion, backend=backend, fullgraph=True)
    for ask in (model, model.tokens):
        before = len(runs)
        assert torch.allclose(ask(pixels), wanted, atol=1e-6) and len(runs) == before + 1
    loaded = type(model).from_pretrained(model.save_pretrained(tmp_path / "one"))
    assert torch.equal(loaded.tokens(pixels), wanted)
    for one in (model, loaded):
        one.detach("toy-wide", "renormalise")
    less = model.tokens(pixels)
    assert torch.allclose(less, loaded.tokens(pixels), atol=1e-6) and not torch.allclose(less, wanted, atol=1e-3)
    assert model.active_experts == loaded.active_experts == ["toy-fine", "toy-whole"]
    torch.compiler.reset()


def test_a_compiled_fusion_holds_to_the_experts_that_were_on(toy: Any, model: Any) -> None:
    torch.compiler.reset()
    fusion, features = model.fusion, model.encode(batch())
    plain = model.tokens(batch())
    fusion.compile(backend="eager", fullgraph=True)
    for off in ({}, {"toy-wide": "zero"}, {"toy-wide": "renormalise"}, {}):
        with fusion.holding(off):
            held = fusion(features["clip"], features).tokens
            assert fusion.active == [name for name in toy.experts if name not in off]
        assert torch.allclose(held, plain, atol=1e-6) == (not off)
    assert fusion.off == {}
    torch.compiler.reset()


def test_what_is_encoded_or_built_in_inference_mode_can_be_trained_on(toy: Any, model: Any) -> None:
    with torch.inference_mode():
        pixels = batch()
        features, built = model.encode(pixels), toy.build(["toy-fine"], decoder=None)
        built.add_expert("toy-wide")
    assert torch.equal(features["clip"], model.encode(batch())["clip"])
    assert not any(value.is_inference() for value in features.values())
    model.fuse(features).tokens.square().sum().backward()
    built.calibrate(toy.pictures())
    built(batch()).square().sum().backward()
    for one in (model, built):
        assert all(p.grad is not None for p in one.fusion.parameters())
