"""A language model whose parameters are divided among the processes, by torch's own FSDP2.

accelerate's FSDP plugin does nothing on a CPU and does not say so; `fully_shard` itself is the same on every device.
Each layer is put together where it computes, forward and backward, and taken apart again. Fusion and projector are
small and stay whole in every process; their gradients are averaged here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tove_core.config import DecoderConfig, TrainingConfig
from tove_core.errors import ConfigError, DataError
from tove_core.training.pieces import whole
from tove_core.training.step import TransferStep


def require_shardable(config: TrainingConfig, decoder: DecoderConfig | None, processes: int) -> None:
    """Refuse sharding where it cannot be, before work is done.

    Raises:
        ConfigError: there is one process, no language model, or one that is held in few bits.
    """
    if config.shard == "none":
        return
    cure = "set training.shard to none"
    if processes < 2:
        raise ConfigError(
            f"training.shard {config.shard!r} divides the language model among processes and there is only one; "
            f"start several with --nproc, or {cure}"
        )
    if decoder is None:
        raise ConfigError(f"training.shard {config.shard!r} divides a language model and there is none; {cure}")
    if decoder.quantize is not None:
        raise ConfigError(
            f"training.shard {config.shard!r} cannot divide a language model held in {decoder.quantize}; "
            f"{cure}, or leave decoder.quantize out"
        )


def require_even(uneven: bool) -> None:
    """Refuse samples of different numbers of images, which are computed in parts whose number depends on the process.

    Raises:
        DataError: some samples have more images than others.
    """
    if uneven:
        raise DataError(
            "some samples have more images than others, and processes that share one language model must all take as "
            "many parts of a step; set training.shard to none, or train on samples of as many images each"
        )


class Shards:
    """The trained parts with their language model divided; made before the optimiser, which must see the parts.

    Args:
        step: changed in place. Its language model may be on another device than the rest; parts go to `device`.
        device: where this process computes.
        bf16: gather weights and compute with them in bfloat16; the parts keep their own dtype.

    Raises:
        ConfigError: transformers has marked no layers of this language model.
    """

    def __init__(self, step: TransferStep, device: torch.device, *, bf16: bool = False) -> None:
        self._step, decoder = step, step.decoder
        layers = [m for m in decoder.language_model.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise ConfigError(
                f"{decoder.identity.architecture} has no layers that can be divided; set training.shard to none"
            )
        self._home = next(decoder.language_model.parameters()).device
        self._outline = _outline(decoder.language_model)
        decoder.projector.to(device)
        language = set(decoder.language_model.parameters())
        self._kept = [p for p in step.parameters() if p not in language]
        _begin_alike([p for p in step.parameters() if p.requires_grad], device)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        dtype = torch.bfloat16 if bf16 else None
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in reversed(layers):  # inner ones first
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        # The root is what embeds the text as well. Features must reach the fusion as they are.
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        fully_shard(step, mesh=mesh, mp_policy=policy, ignored_params=set(self._kept))

    def average_gradients(self) -> None:
        """Average the gradients of what every process holds whole; FSDP2 has done so with the rest."""
        found = sorted((p.grad for p in self._kept if p.grad is not None), key=lambda grad: str(grad.dtype))
        for _, group in groupby(found, key=lambda grad: grad.dtype):
            grads = list(group)
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            for grad, value in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(value.view_as(grad))

    def clip(self, largest: float) -> float:
        """Scale the gradient to a norm of `largest` at most and return the norm it had, over all parts."""
        grads = [p.grad for p in self._step.parameters() if p.grad is not None]
        divided = [grad for grad in grads if isinstance(grad, DTensor)]
        kept = [grad for grad in grads if not isinstance(grad, DTensor)]  # the two cannot be in one list
        norms = [whole(get_total_norm(group)).float() for group in (divided, kept) if group]
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
        factor = largest / (norm + 1e-6)  # as torch has it
        for grad in grads if factor < 1 else ():
            grad.mul_(factor)
        return norm

    def undo(self) -> None:
        """Put the language model together again, in every process and on the device it came from."""
        decoder = self._step.decoder
        found = {name: whole(p.detach()).to(self._home) for name, p in decoder.language_model.named_parameters()}
        _fill(self._outline, found)
        decoder.language_model = self._outline
        decoder.to(self._home)


def _outline(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy without its parameters' values. FSDP2 cannot be undone, so that this is what is filled later."""
    empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, dict(empty))


def _fill(outline: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give an outline its parameters; those that are shared stay shared."""
    filled = {id(p): nn.Parameter(values[name], p.requires_grad) for name, p in outline.named_parameters()}
    for module in list(outline.modules()):
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            setattr(module, name, filled[id(parameter)])


@torch.no_grad()
def _begin_alike(parameters: list[nn.Parameter], device: torch.device) -> None:
    """Let all processes start from the first one's values, as they would without sharding."""
    for parameter in parameters:
        value = parameter.to(device)
        dist.broadcast(value, 0)
        parameter.copy_(value)
