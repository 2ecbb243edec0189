"""The training loop: any step can be reached directly, because everything random is computed from seed and step."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tove_core.calibration import require_calibrated
from tove_core.checks import path_given, seed_given
from tove_core.config import TrainingConfig
from tove_core.data.batches import BatchSampler, mixture_parts
from tove_core.errors import CheckpointError, ConfigError, ToveError
from tove_core.language.base import Decoder
from tove_core.language.randomness import restored
from tove_core.model import ToveModel
from tove_core.run_folder import STATE
from tove_core.selecting import SELECT_ANEW
from tove_core.training.apart import apart
from tove_core.training.average import MovingAverage
from tove_core.training.checkpointing import checkpointed
from tove_core.training.engine import Engine, Report, Share
from tove_core.training.examples import Examples
from tove_core.training.faults import StopRequest, interrupted, listening, memory_named, not_finite
from tove_core.training.metrics import Reporter
from tove_core.training.only import only_experts
from tove_core.training.optimise import schedule, set_rates
from tove_core.training.processes import all_told, tell
from tove_core.training.refusals import require_targets, warn_of_schedule
from tove_core.training.shard import require_even
from tove_core.training.shares import Shares
from tove_core.training.state import load_state, restore_statistics, save_state
from tove_core.training.validation import Validation

AfterStep = Callable[[int], None]


@torch.inference_mode(False)  # as in a caller's `no_grad` too: nothing could be learnt there
def fit(
    model: ToveModel,
    examples: Examples,
    config: TrainingConfig,
    *,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    label: str = "train",
    after_step: AfterStep | None = None,
    only: Sequence[str] | None = None,
    warn: bool = True,
    validation: Validation | None = None,
) -> None:
    """Train a model's fusion and decoder in place.

    Torch's generators are left as they were: what is random follows from `seed` alone.

    Where `config.shard` divides the language model, it is whole again at the end, and stays divided after an error.
    Every expert is trained on every image; unless some are trained alone, the model loses its selector, with a warning.

    Args:
        model: calibrated already (`ToveModel.calibrate`), before its features were computed; a state calibrates too.
        examples: samples with their features.
        config: steps, rates, precision.
        seed: fixes batches, noise and dropped experts.
        output: folder for `metrics.jsonl` and the state to resume from; None: nothing is written.
        resume: go on from the state in `output`.
        quiet: show no progress; that the gate has collapsed is said all the same.
        label: what the progress is called.
        after_step: called with the number of finished steps.
        only: train these experts' first linears and gate rows alone, so that every other tensor stays bit for bit.
        warn: of learning rates that never get to what is set; `train` has done so before it read anything.
        validation: what measures the model where `config.validate_every` says so.

    Raises:
        ConfigError: the model has no decoder or nothing trainable, or has experts and is not calibrated; or trackers
            are configured and there is no `output` for them.
        ToveError: the loss or the gradient is not finite; the step, the samples and the last good state are named.
        DataError: too many images are unreadable, or too many samples too long for the language model; or the examples
            hold features of another model.
        PlacementError: a step does not fit into memory.
        CheckpointError: metrics or a state cannot be written, or there is no state to resume from.
        Interrupted: SIGTERM or SIGINT came; the state after the last step was saved first.
    """
    if model.decoder is None:
        raise ConfigError("training needs a decoder; build the model with one")
    if output is None and config.trackers:
        raise ConfigError(
            f"training.trackers names {', '.join(config.trackers)}, and output is None, where nothing is written; give "
            "a folder as output, or leave them out"
        )
    if config.validate_every is not None and validation is None:
        raise ConfigError("validate_every is set, but nothing is given to measure on; give validation, or leave it out")
    require_targets(examples.samples)
    if model.selector is not None and only is None:
        warnings.warn(f"the model will select experts no more: {SELECT_ANEW}", stacklevel=2)
        model.selector = None
    seed, output = seed_given(seed), None if output is None else path_given(output, "output")
    run = _Run(model, model.decoder, examples, config, seed, output, quiet, label, after_step, warn, validation)
    with only_experts(model, only), apart(), listening() as request, restored():
        run.go(request, resume)
    model.trained = True
    model.eval()


@dataclass
class _Run:
    """What `fit` was given."""

    model: ToveModel
    decoder: Decoder
    examples: Examples
    config: TrainingConfig
    seed: int
    output: Path | None
    quiet: bool
    label: str
    after_step: AfterStep | None
    warn: bool
    validation: Validation | None

    def go(self, request: StopRequest, resume: bool) -> None:
        """Train to the end, or until asked to stop."""
        config = self.config
        if config.shard == "full":
            require_even(self.examples.uneven)
        if resume:
            self._calibrate_as_saved()
        require_calibrated(self.model)
        self.examples.require_of(self.model)
        engine = Engine(self.model, self.decoder, config)
        if self.warn and engine.first:
            warn_of_schedule(config.steps, config.warmup, stacklevel=5)
        average = MovingAverage(engine.inner, config.average) if config.average else None
        values = average.values if average else None
        first = self._restored(engine, values) if resume else 0
        engine.prepare()
        parts = mixture_parts(self.examples.samples)
        sampler = BatchSampler(len(self.examples), config.batch_size, self.seed, parts)
        shares = Shares(self.model, self.decoder, self.examples, sampler, self.seed)
        where = self.output if engine.first else None
        with all_told():
            reporter = Reporter(self.model, config, self.label, where, first, quiet=self.quiet, speaks=engine.first)
        with reporter, closing(engine), closing(self.examples), checkpointed(self.decoder, config.checkpointing):
            start = time.perf_counter()
            for step in range(first, config.steps):
                report, stop = self._step(engine, shares, step, stop=request.signal is not None)
                done = step + 1
                if average is not None:
                    average.update(done)
                rate = config.batch_size * (done - first) / (time.perf_counter() - start)
                before = time.perf_counter()
                held = self.validation.loss(engine, done, config.steps) if self.validation else None
                start += time.perf_counter() - before  # which says nothing about training
                with all_told() if reporter.writes(done, held) else nullcontext():
                    reporter.step(done, report, rate, held)
                stopping = stop and done < config.steps
                state = self._save(engine, done, average, stopping)
                if self.after_step is not None:
                    self.after_step(done)
                if stopping:
                    engine.accelerator.wait_for_everyone()  # the first process is still writing
                    raise interrupted(request.signal or 15, done, config.steps, state)
        if average is not None:
            average.apply()
        engine.finish()

    def _calibrate_as_saved(self) -> None:
        """Restore what the last state's features were normalised by; older states do not hold it."""
        if restore_statistics(self._states, self.model.align):
            self.model.calibrated = self.model.fusion is not None  # its residual is among what was trained

    def _restored(self, engine: Engine, average: dict[str, Tensor] | None) -> int:
        """Restore the last state, and return how many steps it has seen."""
        origin = self._origin if engine.first else None  # one process tells what has changed
        return load_state(self._states, engine.inner, engine.optimizer, average, origin=origin)

    @property
    def _states(self) -> Path:
        """Where states to resume from are."""
        if self.output is None:
            raise CheckpointError("without output there is no state to resume from; give the folder of the run")
        return self.output / STATE

    @cached_property
    def _origin(self) -> dict[str, object]:
        """What the samples of every step are computed from."""
        told = hashlib.sha256()
        for sample in self.examples.samples:
            told.update(f"{sample.id}\0{sample.weight}\n".encode())
        count = len(self.examples)
        return {
            "seed": self.seed,
            "training.batch_size": self.config.batch_size,
            "number of samples": count,
            "samples": told.hexdigest()[:16],
        }

    def _step(self, engine: Engine, shares: Shares, step: int, *, stop: bool) -> tuple[Report, bool]:
        """Take one step; return what it was like, and whether any process was asked to stop."""
        set_rates(engine.optimizer, schedule(step, self.config))
        # Dropout inside the language model, the one thing random that belongs to a process and not to a sample.
        torch.manual_seed(self.seed * 1_000_003 + step + engine.rank * 0x9E3779B97F4A7C15 % (1 << 62))
        share, problem = Share([], torch.empty(0), []), None
        try:
            share = shares.take(step, self.config.steps, engine.rank, engine.world)
        except ToveError as error:
            problem = error
        # One message for all that processes must know of each other: where one has failed, the others do not wait.
        told = engine.sums(share.tokens, stop, problem is not None, shares.untold)
        tokens, stops, failed, left_out = told
        if failed:
            tell(problem)
        if left_out and engine.world > 1:
            shares.exchange()
        size = math.ceil(len(share.indices) / self.config.accumulate)
        with memory_named(step + 1, size, self.config, self.output):
            report = engine.backward(self.examples, share, step, tokens=tokens)
            self._check(math.isfinite(report.loss), f"the loss is {report.loss}", engine, report, share, step)
            norm = engine.update()
        self._check(math.isfinite(norm), f"the gradient is {norm}", engine, report, share, step)
        return report, stops > 0

    def _check(self, fine: bool, seen: str, engine: Engine, report: Report, share: Share, step: int) -> None:
        if fine:
            return
        blamed = engine.gathered([self.examples.samples[i].id for i in report.bad])
        names = blamed or engine.gathered([self.examples.samples[i].id for i in share.indices])
        raise not_finite(seen, step + 1, names, self.output, engine.gathered(engine.unfit(self.examples, share)))

    def _save(self, engine: Engine, done: int, average: MovingAverage | None, stopping: bool) -> Path | None:
        """Save the state where it is time to; return its folder, in every process."""
        due = bool(self.config.save_every and done % self.config.save_every == 0)
        if self.output is None or not (due or stopping):
            return None
        folder = self.output / STATE
        values = average.values if average else None
        statistics = dict(self.model.align.named_buffers())
        with all_told():
            origin = self._origin if engine.first else None
            kept = {"statistics": statistics, "origin": origin, "write": engine.first}
            save_state(folder, done, engine.inner, engine.optimizer, values, **kept)
        return folder
