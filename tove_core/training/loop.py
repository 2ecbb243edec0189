"""The training loop: any step can be reached directly, because everything random is computed from seed and step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from tove_core.config import TrainingConfig
from tove_core.data.batches import BatchSampler, mixture_parts
from tove_core.errors import ConfigError, ToveError
from tove_core.fusion.noise import annealed, sample_keys
from tove_core.language.base import Decoder
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.metrics import Display, MetricsFile
from tove_core.training.only import only_experts
from tove_core.training.optimise import parameter_groups, schedule, set_rates
from tove_core.training.state import STATE, load_state, save_state
from tove_core.training.step import StepOutput, TransferStep, importance

AfterStep = Callable[[int], None]


def fit(
    model: ToveModel,
    examples: Examples,
    config: TrainingConfig,
    *,
    seed: int = 0,
    output: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    label: str = "train",
    after_step: AfterStep | None = None,
    only: Sequence[str] | None = None,
) -> None:
    """Train a model's fusion and decoder in place.

    Args:
        model: calibrated already (`ToveModel.calibrate`).
        examples: samples with their features.
        config: steps, rates, precision.
        seed: fixes batches, noise and dropped experts.
        output: folder for `metrics.jsonl` and the state to resume from; None: nothing is written.
        resume: go on from the state in `output`.
        quiet: show no progress.
        label: what the progress is called.
        after_step: called with the number of finished steps.
        only: train these experts' first linears and gate rows alone, so that every other tensor stays bit for bit.

    Raises:
        ConfigError: the model has no decoder or nothing trainable.
        ToveError: the loss is not finite; the step and the samples are named.
    """
    if model.decoder is None:
        raise ConfigError("training needs a decoder; build the model with one")
    with only_experts(model, only):
        _fit(model, model.decoder, examples, config, seed, output, resume, quiet, label, after_step)
    model.trained = True
    model.eval()


def _fit(
    model: ToveModel,
    decoder: Decoder,
    examples: Examples,
    config: TrainingConfig,
    seed: int,
    output: Path | None,
    resume: bool,
    quiet: bool,
    label: str,
    after_step: AfterStep | None,
) -> None:
    # Precision is set around each step: accelerate would fix it once for the whole process.
    accelerator = Accelerator(cpu=model.device.type == "cpu", mixed_precision="no")
    inner = TransferStep(model.fusion, decoder)
    optimizer = torch.optim.AdamW(parameter_groups(inner, config), betas=config.betas)
    first = load_state(output / STATE, inner, optimizer) if resume and output else 0
    module, prepared = accelerator.prepare(inner, optimizer)
    sampler = BatchSampler(len(examples), config.batch_size, seed, mixture_parts(examples.samples))
    metrics = MetricsFile(output / "metrics.jsonl", first) if output and accelerator.is_main_process else None
    module.train()
    with Display(config.steps, label, quiet=quiet or not accelerator.is_main_process) as display:
        clock = time.perf_counter()
        for step in range(first, config.steps):
            set_rates(optimizer, schedule(step, config))
            torch.manual_seed(seed * 1_000_003 + step)  # dropout inside the language model
            indices = examples.usable(sampler.batch(step, accelerator.process_index, accelerator.num_processes))
            keys = sample_keys(seed, [step * config.batch_size // len(examples)] * len(indices), indices)
            loss, balance, mass = _step(model, module, accelerator, examples, indices, keys, config, step)
            _check_finite(loss, step, examples, indices)
            prepared.zero_grad(set_to_none=True)
            accelerator.backward(loss + balance)
            accelerator.clip_grad_norm_(module.parameters(), config.clip_norm)
            prepared.step()
            done = step + 1
            if metrics and (done % config.log_every == 0 or done == config.steps):
                rate = config.batch_size * (done - first) / (time.perf_counter() - clock)
                metrics.write(
                    step=done,
                    loss=round(loss.item(), 6),
                    balance=round(balance.item(), 6),
                    samples_per_second=round(rate, 1),
                    gate=_shares(model, mass),
                )
            display.update(done, f"loss {loss.item():.3f}")
            if output and config.save_every and done % config.save_every == 0 and accelerator.is_main_process:
                save_state(output / STATE, done, inner, optimizer)
            if after_step is not None:
                after_step(done)


def _step(
    model: ToveModel,
    module: torch.nn.Module,
    accelerator: Accelerator,
    examples: Examples,
    indices: list[int],
    keys: Tensor,
    config: TrainingConfig,
    step: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the loss per answer token of the global batch, the weighted balance term and the gate mass [K]."""
    gate = model.config.fusion.gate
    gated = model.config.fusion.kind == "gate"
    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        output: StepOutput = module(
            examples.features(indices),
            examples.prompts(indices),
            examples.targets(indices, keys),
            keys=keys,
            noise=annealed(gate.noise, step, config.steps) if gated else 0.0,
            dropout=gate.expert_dropout,
        )
    tokens = accelerator.reduce(output.tokens.detach().float(), "sum")
    # Gradients are averaged over processes, so each scales its sum by their number.
    loss = output.loss.float() * accelerator.num_processes / tokens
    zero = loss.detach() * 0
    if output.mass is None or gate.balance == 0 or step < gate.balance_warmup:
        return loss, zero, output.mass
    mass = _summed(output.mass, accelerator)
    return loss, gate.balance * importance(mass[_competing(model)]), mass


def _competing(model: ToveModel) -> list[int]:
    """Return the columns of experts that share a softmax: a gate that stands apart has nothing to be balanced with."""
    fusion = model.fusion
    return [] if fusion is None else [k for k, name in enumerate(fusion.experts) if name not in fusion.apart]


def _summed(mass: Tensor, accelerator: Accelerator) -> Tensor:
    """Add gate mass over processes, with its gradient."""
    if accelerator.num_processes == 1:
        return mass
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(mass)  # type: ignore[return-value]


def _check_finite(loss: Tensor, step: int, examples: Examples, indices: list[int]) -> None:
    if not math.isfinite(loss.item()):
        names = ", ".join(repr(examples.samples[i].id) for i in indices[:5])
        raise ToveError(
            f"the loss is {loss.item()} at step {step + 1} (samples {names}, ...); lower training.learning_rate or "
            "look at these samples"
        )


def _shares(model: ToveModel, mass: Tensor | None) -> dict[str, float] | None:
    if mass is None or model.fusion is None:
        return None
    share = (mass / mass.sum()).tolist()
    return {name: round(value, 4) for name, value in zip(model.fusion.experts, share, strict=True)}
