"""Checks of the forward pass: frozen, finite, one image at a time, in any precision."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tove_core.hub.expert import FrozenExpert
from tove_core.hub.state import tensors_of
from tove_core.testing.bench import bench, run
from tove_core.testing.compare import difference, finite, require_regions, row
from tove_core.testing.definition import CheckFailed, NotApplicable, defines
from tove_core.testing.images import plain
from tove_core.testing.subject import Subject
from tove_core.testing.watch import undone


@defines(
    "frozen-and-eval-sticky",
    "module",
    summary="stays frozen and in evaluation mode, and a forward pass changes nothing in it",
    cause="The module overrides `train`, calls it, creates parameters in `forward`, keeps running statistics, or "
    "counts its calls in a buffer.",
    cure="Leave modes to the hub, and build everything in the constructor.",
)
def frozen(subject: Subject) -> str:
    """Ask for training mode, run again, and compare modes, state and outputs with what they were."""
    at = bench(subject)
    reference, expert = at.alone, at.expert
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(expert.module).items()}
    expert.train()
    apart = difference(run(expert, at.images[1:].clone()), reference)
    training = [name or "the module" for name, part in expert.module.named_modules() if part.training]
    if training:
        raise CheckFailed(f"{training[0]} is in training mode")
    learning = [name for name, parameter in expert.module.named_parameters() if parameter.requires_grad]
    if learning:
        raise CheckFailed(f"parameter {learning[0]} asks for a gradient")
    after = tensors_of(expert.module)
    moved = [name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name))]
    if moved:
        raise CheckFailed(f"a forward pass changed {sorted(moved)[0]}")
    if apart.largest > 1e-5:
        raise CheckFailed(f"{apart.name} differs by {apart.largest:.1e} (relative) the second time")
    return ""


@defines(
    "no-grad-graph",
    "module",
    summary="gives outputs without a gradient graph that layers can be trained on",
    cause="`forward` switches gradients on (`torch.enable_grad`).",
    cure="Leave gradients to the hub, which runs experts without.",
)
def no_graph(subject: Subject) -> str:
    """Look at what outputs remember of their making, as the module gives them: the hub hands on copies."""
    at = bench(subject)
    _ = at.outputs  # one that cannot be run is told of elsewhere
    with torch.no_grad(), undone():
        given = at.expert.module(at.images.clone())
    for name, value in given.items():
        for tensor in _parts(value):
            if tensor.requires_grad or tensor.grad_fn is not None:
                raise CheckFailed(f"output '{name}' holds a gradient graph")
    return ""


@defines(
    "input-unchanged",
    "module",
    summary="leaves its pixels as they were",
    cause="`forward` normalises or pads in place (`pixels.sub_(mean)`, `relu(inplace=True)` as the first layer).",
    cure="Use the operation out of place; experts with the same input share one tensor.",
    owns=("input",),
)
def input_unchanged(subject: Subject) -> str:
    """Compare the pixels that were handed over with a copy; the hub sees most writes itself, a view of numpy not."""
    at = bench(subject)
    _ = at.outputs
    if at.given is None or not torch.equal(at.given, at.images):
        raise CheckFailed("the pixels are others after the forward pass")
    return ""


@defines(
    "finite",
    "module",
    summary="gives finite numbers for any image, even black or white ones",
    cause="A division by the spread or the range of a plain image, a logarithm of zero, or too large weights.",
    cure="Add a small number below the line (`/ (std + 1e-6)`).",
)
def all_finite(subject: Subject) -> str:
    """Look for NaN and infinity in the outputs for two pictures, a black and a white image."""
    at = bench(subject)
    for what, outputs in (
        ("pictures", at.outputs),
        ("black and white images", run(at.expert, plain(at.input, (0.0, 1.0)))),
    ):
        wrong = [name for name, value in outputs.items() if not finite(value)]
        if wrong:
            raise CheckFailed(f"output '{wrong[0]}' is not finite for {what}")
    return ""


@defines(
    "batch-independent",
    "module",
    summary="gives an image the same outputs whatever else is in its batch",
    cause="Statistics are taken over the batch dimension, `reshape` mixes it with others, normalisation uses the "
    "largest value of the whole batch, or boxes and texts of one image are given to another.",
    cure="Reduce over channels and space only (`dim=(1, 2, 3)`), keep the batch dimension first in every reshape, and "
    "gather regions image by image.",
)
def batch_independent(subject: Subject) -> str:
    """Run the second of two images alone, and the two in the other order."""
    at = bench(subject)
    require_regions(at.outputs)
    turned = run(at.expert, at.images.flip(0))
    for found, index, when in (
        (at.alone, 1, "the image is alone"),
        (row(turned, 0), 1, "the image comes first in its batch"),
        (row(turned, 1), 0, "the image comes last in its batch"),
    ):
        apart = difference(found, row(at.outputs, index))
        if apart.largest > 1e-3:
            raise CheckFailed(f"{apart.name} differs by {apart.largest:.1e} (relative) when {when}")
    return ""


@defines(
    "bf16-close",
    "module",
    summary="gives about the same in bfloat16",
    cause="A step needs more than 8 bits: large numbers are subtracted, positions are computed in the weights' "
    "precision, or a float32 constant meets bfloat16 weights.",
    cure="Do that step in float32 (`x.float()`) and cast back, or list the check as an expected failure and run the "
    "expert in float32.",
)
def bf16_close(subject: Subject) -> str:
    """Run a copy of the module in bfloat16; 10 per cent apart is far, rounding alone gives one or two."""
    at = bench(subject)
    if not any(tensor.is_floating_point() for tensor in (*at.expert.parameters(), *at.expert.buffers())):
        raise NotApplicable("it holds no numbers, so it always computes in float32")
    module = copy.deepcopy(at.expert.module).to(torch.bfloat16)
    outputs = run(FrozenExpert(module, at.expert.spec, subject.name), at.images[1:].clone())
    require_regions(at.alone)
    apart = difference(outputs, at.alone, coarse=True)
    if apart.largest > 0.1:
        raise CheckFailed(f"{apart.name} differs by {apart.largest:.0%} in bfloat16")
    return f"{apart.largest:.1%} apart"


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)


def _parts(value: object) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [part for part in vars(value).values() if isinstance(part, Tensor)]
