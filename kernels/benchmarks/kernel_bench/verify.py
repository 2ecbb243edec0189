"""Compare a form with float64 before it is timed: a wrong answer has no speed."""

from __future__ import annotations

import torch
from torch import Tensor

from kernel_bench.workload import Compute, Form, Problem, Workload

# Relative RMSE of one rounding, of the result and of the gradients; with a margin of 1.5 to 10 over what is seen.
STRICT = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 2.5e-3}
LOOSE = 3e-2  # rounding after every step in 16 bits


def worst_error(workload: Workload, form: Form, problem: Problem, direction: str) -> float:
    """Return the largest relative RMSE against float64, of the result and, unless forward, of the gradients.

    NaN counts as infinite.
    """
    exact, doubled = form.exact or workload.exact, _doubled(problem)
    errors = []
    for part in ("forward",) if direction == "forward" else ("forward", "backward"):
        got, want = results(form.compute, problem, part), results(exact, doubled, part)
        errors += [_error(one, other) for one, other in zip(got, want, strict=True)]
    return max(errors)


def limit(workload: Workload, form: Form) -> float:
    """Return the error up to which a form may be timed."""
    return STRICT[workload.dtype] if form.strict else LOOSE


def results(compute: Compute, problem: Problem, direction: str) -> list[Tensor]:
    """Return the result, or the gradients of the leaves that the result depends on."""
    if direction == "forward":
        with torch.no_grad():
            return [compute(problem.leaves, problem.fixed)]
    out = compute(problem.leaves, problem.fixed)
    found = torch.autograd.grad(out, problem.leaves, problem.grad, allow_unused=True)
    return [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, problem.leaves, strict=True)]


def _doubled(problem: Problem) -> Problem:
    leaves = [leaf.detach().double().requires_grad_() for leaf in problem.leaves]
    return Problem(leaves, [one.double() for one in problem.fixed], problem.grad.double())


def _error(got: Tensor, want: Tensor) -> float:
    if got.shape != want.shape or not bool(got.isfinite().all()):
        return float("inf")
    scale = float(want.norm())
    return float((got.double() - want).norm()) / scale if scale else float(got.double().norm())
