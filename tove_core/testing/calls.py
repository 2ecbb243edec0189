"""Checks of what one call leaves for the next: nothing, and the outputs of the last one as they were."""

from __future__ import annotations

import torch

from tove_core.testing.bench import bench, run
from tove_core.testing.compare import difference, flat, require_regions
from tove_core.testing.definition import CheckFailed, defines
from tove_core.testing.subject import Subject
from tove_core.testing.watch import undone


@defines(
    "outputs-unchanged",
    "module",
    summary="leaves outputs it gave as they were when it is called again",
    cause="`forward` writes into a tensor it keeps (`self.out.copy_(found)`, `out=self.buffer`) and returns it or a "
    "view of it, so that whoever holds an earlier output finds the latest in it.",
    cure="Return a tensor of its own from each call; torch's allocator reuses the memory.",
)
def outputs_unchanged(subject: Subject) -> str:
    """Hold what the module gives for one image, as it gives it, while it sees another; the hub may copy, this not."""
    at = bench(subject)
    _ = at.outputs  # one that cannot be run is told of elsewhere
    with torch.no_grad(), undone():
        given = at.expert.module(at.images[1:].clone())
        kept = {name: tensor.clone() for name, tensor in flat(given).items()}
        at.expert.module(at.images[:1].clone())
    for name, tensor in flat(given).items():
        if not torch.allclose(tensor, kept[name], rtol=0, atol=0, equal_nan=True):
            raise CheckFailed(f"{name} of one image is another after the next image")
    return ""


@defines(
    "calls-independent",
    "module",
    summary="gives an image the same outputs whatever it has been given before",
    cause="`forward` keeps something for the next call: the last map, a running mean, a counter of calls, or a result "
    "that is looked up by less than the whole image.",
    cure="Write no attribute in `forward`; what depends on the size alone may be computed again or kept by that size.",
)
def calls_independent(subject: Subject) -> str:
    """Run an image, another one and the first again, after the calls of all other checks, which a counter needs."""
    at = bench(subject)
    require_regions(at.outputs)
    first = at.alone
    run(at.expert, at.images[:1].clone())
    apart = difference(run(at.expert, at.images[1:].clone()), first)
    if apart.largest > 1e-5:
        raise CheckFailed(f"{apart.name} differs by {apart.largest:.1e} (relative) after another image")
    return ""
