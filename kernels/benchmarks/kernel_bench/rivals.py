"""Operators of other libraries on the same tensors: attention residuals, where their libraries are installed.

They weight K + 1 sources by a softmax of a learned query's product with each normalised source, and sum: the tensors
read and written are those of `gated_mix` with K experts, so its byte count is theirs. The gates they compute
themselves, so each is checked against its own definition.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from kernel_bench.workload import Compute, Form

EPS = 1e-6


def attention_residuals(device: torch.device) -> tuple[dict[str, Form], dict[str, str]]:
    """Return the forms that are there, and why the others are not."""
    found: dict[str, Form] = {}
    absent: dict[str, str] = {}
    for name, module, load in (
        ("Liger-Kernel attention residual", "liger_kernel", _liger),
        ("flash-linear-attention attention residual", "fla", _fla),
    ):
        if device.type != "cuda":
            absent[name] = "runs on a GPU only"
        elif find_spec(module) is None:
            absent[name] = f"{module} is not installed"
        else:
            try:
                found[name] = Form(load(), exact=_exact, graphs=False)
            except Exception as error:  # whatever another library's import does, ours are to be measured
                absent[name] = f"this version of {module} does not give such an operator: {error}"
    return found, absent


def _query(like: Tensor) -> tuple[Tensor, Tensor]:
    width = like.shape[-1]
    query = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype) * width**-0.5
    return query, torch.ones_like(query)


def _sources(leaves: list[Tensor], fixed: list[Tensor]) -> list[Tensor]:
    return [fixed[0], *leaves[1:]]


def _exact(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
    sources = torch.stack(_sources(leaves, fixed))
    normalised = sources * (sources.square().mean(-1, keepdim=True) + EPS).rsqrt()
    gates = (normalised @ _query(sources)[0]).softmax(0)
    # The logits take no part; their gradient is zero.
    return (gates[..., None] * sources).sum(0) + 0 * leaves[0].sum()


def _liger() -> Compute:
    # liger_kernel.ops.attn_res: values [sources, B, N, D], query [D], norm [D], eps; it wants the sources stacked.
    from liger_kernel.ops.attn_res import LigerAttnResFunction  # type: ignore[import-not-found]  # optional rival

    def call(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
        query, gain = _query(fixed[0])
        return LigerAttnResFunction.apply(torch.stack(_sources(leaves, fixed)), query, gain, EPS)

    return call


def _fla() -> Compute:
    # fla.ops.attnres: query [D], a list of sources [B, N, D], norm [D].
    from fla.ops.attnres import fused_attnres  # type: ignore[import-not-found]  # optional rival

    def call(leaves: list[Tensor], fixed: list[Tensor]) -> Tensor:
        query, gain = _query(fixed[0])
        return fused_attnres(query=query, residuals=_sources(leaves, fixed), rms_weight=gain, rms_eps=EPS)

    return call
