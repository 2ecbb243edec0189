"""One step of the optimiser over all processes: each takes its share of the samples, in parts where asked.

Everything is divided by counts of the whole step, so loss and gradient are the same however many processes and parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn

from tove_core.config import TrainingConfig
from tove_core.errors import ConfigError
from tove_core.fusion.noise import annealed
from tove_core.language.base import Decoder
from tove_core.language.prompt import EncodedText
from tove_core.model import CLIP, ToveModel
from tove_core.training.apart import require_device
from tove_core.training.examples import Examples
from tove_core.training.faults import encoding_named
from tove_core.training.health import entropy
from tove_core.training.optimise import adamw, parameter_groups, require_exact
from tove_core.training.shard import Shards, require_shardable
from tove_core.training.step import StepOutput, TransferStep, importance


@dataclass(frozen=True)
class Share:
    """The samples one process takes of a step, or a part of them."""

    indices: list[int]
    keys: Tensor
    """[B], what fixes each sample's noise and dropped experts."""
    texts: list[EncodedText]
    """Prompts and answers in token ids."""

    @property
    def tokens(self) -> int:
        """How many answer tokens there are."""
        return sum(len(text.target) for text in self.texts)

    def parts(self, count: int) -> list[Share]:
        """Return it in `count` parts whose sizes differ by one at most; fewer where there are fewer samples."""
        size = len(self.indices)
        cuts = [size * k // min(count, size) for k in range(min(count, size) + 1)]
        return [self.some(range(a, b)) for a, b in pairwise(cuts)]

    def some(self, places: Sequence[int]) -> Share:
        """Return the samples at these places of it."""
        return Share([self.indices[p] for p in places], self.keys[list(places)], [self.texts[p] for p in places])


@dataclass(frozen=True)
class Report:
    """What one step was like, over all processes."""

    loss: float
    """Mean cross-entropy per answer token."""
    balance: float
    """Importance, as weighted in the loss."""
    shares: dict[str, float] | None
    """Of the mass of the gate's own weights, by expert; whom samples went without does not count."""
    spread: float | None
    """Mean entropy of the gates, 1 where all are equal; None with fewer than two experts."""
    bad: list[int]
    """Samples of this process whose loss is not finite."""


class Engine:
    """The trained parts of a model, their optimiser, and the processes that train them together.

    Attributes:
        inner: the parts; what states hold.
        optimizer: AdamW over what is trainable.
        shards: what divides the language model among the processes; None: every process holds all of it.
    """

    def __init__(self, model: ToveModel, decoder: Decoder, config: TrainingConfig) -> None:
        self.model, self.config = model, config
        # A detached expert's parameters get no gradient at all, which DDP must be told; dropped ones get zero.
        detached = model.fusion is not None and bool(model.fusion.off)
        parallel = DistributedDataParallelKwargs(find_unused_parameters=detached)
        require_device(model.device)
        # Precision is set around each step: accelerate would fix it once for the whole process.
        self.accelerator = Accelerator(
            cpu=model.device.type == "cpu",
            mixed_precision="no",
            device_placement=False,
            kwargs_handlers=[parallel],
        )
        self.inner = TransferStep(model.fusion, decoder)
        require_exact(self.inner)
        require_shardable(config, decoder.config, self.world)
        self.shards = None
        if config.shard == "full":
            self.shards = Shards(self.inner, model.device, bf16=config.precision == "bf16")
        self.optimizer = adamw(parameter_groups(self.inner, config), betas=config.betas)
        self.module: nn.Module = self.inner
        self._prepared: Any = self.optimizer

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.accelerator.num_processes

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.accelerator.is_main_process

    def prepare(self) -> None:
        """Bind the processes together; after a state has been restored, so that all begin alike."""
        if self.shards is None:
            self.module, self._prepared = self.accelerator.prepare(self.inner, self.optimizer)
        self.module.train()

    def sums(self, *values: float) -> list[float]:
        """Add values over the processes; every process must ask."""
        return self._summed(torch.tensor([float(value) for value in values])).tolist()

    def backward(self, examples: Examples, share: Share, step: int, *, tokens: float) -> Report:
        """Compute the gradient of one step (from 0) and say what it was like; parameters stay as they are.

        Args:
            share: what this process takes of the step.
            tokens: of the answers of all processes.
        """
        self._prepared.zero_grad(set_to_none=True)
        self._heat(step)
        parts, weight = self._cut(examples, share), self._balance_weight(step)
        features: Iterator[Mapping[str, Tensor]] = (self._seen(examples, part) for part in parts)
        total, beforehand = None, weight and (self._parts > 1 or examples.uneven)
        # The term is of the whole step, so its mass must be known before the first of several parts. Asked alike in all
        # processes, whatever their shares are: they speak to each other in one order.
        if beforehand:
            if examples.table is None:  # computed once, so all wait here for their part
                kept = list(features)
                features, tokens_of = iter(kept), iter([given[CLIP] for given in kept])
            else:
                tokens_of = (self._seen(examples, part, [CLIP])[CLIP] for part in parts)
            total = self._total_mass(zip(parts, tokens_of, strict=True), step)
        tally, penalty = _Tally(self._on), torch.zeros(())
        for number, (part, given) in enumerate(zip(parts, features, strict=True)):
            with nullcontext() if number == len(parts) - 1 else self._apart():
                output = self._forward(part, given, step)
                loss = output.loss.float() * self.world / tokens  # gradients are averaged over processes
                if weight and output.mass is not None:
                    if beforehand and total is None:
                        raise _no_weights(self.model)
                    total = self._summed(output.mass.detach()) if total is None else total
                    others = total - output.mass.detach()
                    term = weight * importance((others + output.mass)[self._competing])
                    loss, penalty = loss + term * self.world, term.detach()
                loss.backward()  # accelerate's own would divide by the parts that an environment variable tells it of
            tally.add(output)
        if self.shards is not None:
            self.shards.average_gradients()
        return self._report(tally, tokens, penalty, [i for part in parts for i in part.indices])

    def update(self) -> float:
        """Clip the gradient, take a step, and return the gradient's norm; no step where that is not finite."""
        if self.shards is not None:
            length = self.shards.clip(self.config.clip_norm)
        else:
            norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
            length = float(norm) if norm is not None else 0.0
        if math.isfinite(length):
            self._prepared.step()
        return length

    def finish(self) -> None:
        """Leave a model that is whole in every process; all must come here, so not after a fault in one of them."""
        if self.shards is not None:
            self.shards.undo()

    def close(self) -> None:
        """Let the gate have the temperature it is configured with, and nothing keep gradients."""
        self._heat(self.config.steps)
        self.optimizer.zero_grad(set_to_none=True)

    def gathered(self, names: list[str]) -> list[str]:
        """Return the names of all processes; every process must ask."""
        return gather_object(names)

    @property
    def _parts(self) -> int:
        """In how many parts a process takes its share: with a divided model all work at the same part at once."""
        if self.shards is None:
            return self.config.accumulate
        return min(self.config.accumulate, self.config.batch_size // self.world)

    def _cut(self, examples: Examples, share: Share) -> list[Share]:
        """Return the parts of a share, each of samples with as many images."""
        parts = share.parts(self._parts)
        return [part.some(places) for part in parts for places in examples.alike(part.indices)]

    def _apart(self) -> AbstractContextManager[None]:
        """Let gradients stay with this process; those of a divided model go to whom they belong, or they need room."""
        return nullcontext() if self.shards is not None else self.accelerator.no_sync(self.module)

    def _seen(self, examples: Examples, part: Share, names: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        with encoding_named(self.model, len(part.indices)):
            return examples.features(part.indices, names)

    def unfit(self, examples: Examples, share: Share) -> list[str]:
        """Return what gives values that are not finite for a share: names of experts, or CLIP's."""
        parts = self._cut(examples, share)
        seen = [self._seen(examples, part) for part in parts]
        return sorted({name for given in seen for name, values in given.items() if not values.isfinite().all()})

    def _forward(self, part: Share, features: Mapping[str, Tensor], step: int) -> StepOutput:
        with self._in_precision():
            return self.module(features, part.texts, keys=part.keys, **self._exploration(step))

    def _in_precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    def _exploration(self, step: int) -> dict[str, float]:
        gate = self.model.config.fusion.gate
        gated = self.model.config.fusion.kind == "gate"
        noise = annealed(gate.noise, step, self.config.steps) if gated else 0.0
        return {"noise": noise, "dropout": gate.expert_dropout}

    def _heat(self, step: int) -> None:
        gate, module = self.model.config.fusion.gate, getattr(self.model.fusion, "gate", None)
        if module is not None and gate.temperature_start is not None:
            module.heat = 1 + annealed(gate.temperature_start / gate.temperature - 1, step, self.config.steps)

    def _total_mass(self, parts: Any, step: int) -> Tensor | None:
        explore = self._exploration(step)
        with self._in_precision():  # the parts' own masses are taken from it
            masses = [self.inner.mass(tokens, part.keys, **explore) for part, tokens in parts]
        return None if masses[0] is None else self._summed(torch.stack(masses).sum(0))  # type: ignore[arg-type]

    def _balance_weight(self, step: int) -> float:
        gate = self.model.config.fusion.gate
        return 0.0 if step < gate.balance_warmup or len(self._competing) < 2 else gate.balance

    @property
    def _competing(self) -> list[int]:
        """Columns of experts that share a softmax: a gate that stands apart has nothing to be balanced with."""
        fusion = self.model.fusion
        if fusion is None or not fusion.has_softmax:
            return []
        return [k for k in self._on if fusion.experts[k] not in fusion.apart]

    @property
    def _on(self) -> list[int]:
        """Columns of experts that are on; the others' hold zeros, which are no weights that the gate gave."""
        fusion = self.model.fusion
        return [] if fusion is None else [fusion.experts.index(name) for name in fusion.active]

    def _summed(self, value: Tensor) -> Tensor:
        """Add a tensor over processes."""
        return value if self.world == 1 else self.accelerator.reduce(value.to(self.model.device), "sum")  # type: ignore[return-value]

    def _report(self, tally: _Tally, tokens: float, penalty: Tensor, indices: Sequence[int]) -> Report:
        sums = self._summed(tally.vector())
        # Read in one go, once all is launched: each reading waits for the device.
        found = torch.cat([sums, penalty.to(sums).reshape(1), *tally.losses]).tolist()
        balance, losses = found[len(sums)], found[len(sums) + 1 :]
        loss, spread, positions, mass = found[0] / tokens, found[1], found[2], found[3 : len(sums)]
        bad = [i for i, value in zip(indices, losses, strict=True) if not math.isfinite(value)]
        fusion, whole = self.model.fusion, sum(mass)
        shares = None
        if fusion is not None and mass and whole > 0:
            shares = {name: value / whole for name, value in zip(fusion.active, mass, strict=True)}
        return Report(loss, balance, shares, spread / positions if len(mass) > 1 and positions else None, bad)


def _no_weights(model: ToveModel) -> ConfigError:
    """Return the error for a fusion of somebody's own whose gates cannot be had before its forward pass."""
    return ConfigError(
        f"{type(model.fusion).__name__} gives gates in forward and none in weights, so a step in several parts cannot "
        "be balanced as a whole; define weights, or set accumulate to 1 or fusion.gate.balance to 0"
    )


class _Tally:
    """Sums over the parts of a step.

    Args:
        on: columns of the gates that belong to experts that are on.
    """

    def __init__(self, on: Sequence[int]) -> None:
        self._on = list(on)
        self._values: Tensor | None = None
        self.losses: list[Tensor] = []
        """Of each part, the loss of each sample."""

    def add(self, output: StepOutput) -> None:
        rows: Sequence[Tensor] = [output.loss.detach().float().reshape(1)]
        zero = rows[0] * 0
        if output.gates is None:
            rows = [*rows, zero, zero]
        else:
            positions = zero + output.gates.shape[0] * output.gates.shape[1]
            gates = output.gates[..., self._on]
            rows = [*rows, entropy(gates).reshape(1), positions, gates.sum((0, 1))]
        vector = torch.cat(list(rows))
        if output.per_sample is not None:
            self.losses.append(output.per_sample.to(vector))
        self._values = vector if self._values is None else self._values + vector

    def vector(self) -> Tensor:
        """Return loss, entropy, tokens of the image and gate mass by expert that is on, [3 + K]."""
        return torch.zeros(3) if self._values is None else self._values
