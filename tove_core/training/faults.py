"""What can go wrong while a model trains, and the sentence for each: stop signals, bad numbers, full memory."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from tove_core.config import TrainingConfig
from tove_core.errors import Interrupted, PlacementError, ToveError
from tove_core.hub.microbatch import is_out_of_memory
from tove_core.model import ToveModel
from tove_core.run_folder import CONFIG, STATE, go_on, states

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 3.0
"""Seconds in which a second signal is an echo of the first: a launcher passes on what a terminal sends as well."""


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal."""
        if self.signal is None:
            self.signal = number


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request that training looks at between steps. Elsewhere than in the main thread
    signals cannot be had, and the request never comes."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with _impatient():
        before = {number: signal.signal(number, request) for number in SIGNALS}
        _OUTSIDE.update(before)
        try:
            yield request
        finally:
            _OUTSIDE.clear()
            for number, handler in before.items():
                signal.signal(number, handler)


_OUTSIDE: dict[signal.Signals, Any] = {}
"""While a run listens: who handled its signals before."""


def _forget() -> None:
    """Leave the signals of a process that a listening one has forked to whoever handled them before."""
    if _OUTSIDE:
        signal.set_wakeup_fd(-1)
        for number, handler in _OUTSIDE.items():
            signal.signal(number, handler)


os.register_at_fork(after_in_child=_forget)


@contextmanager
def _impatient() -> Iterator[None]:
    """Let a second signal, after the grace period, end the process at once, with the exit code of that signal.

    Python runs a handler between two of its own instructions, so never while the main thread is in a long native call.
    A thread waits for the signals beside it, through the file that the interpreter's own handler writes their numbers
    into as they come.
    """
    reads, writes = os.pipe()
    os.set_blocking(writes, False)

    def watch() -> None:
        first = None
        while numbers := os.read(reads, 1):
            if numbers[0] not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
            elif time.monotonic() - first > GRACE:
                os._exit(128 + numbers[0])
        os.close(reads)

    before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writes)  # which ends the thread


def interrupted(number: int, step: int, steps: int, state: Path | None) -> Interrupted:
    """Return the error for a run that a signal ended after `step` of `steps` steps."""
    name = signal.Signals(number).name
    kept = (
        f"its state is in {state}, go on with {go_on(state.parent)}"
        if state
        else "nothing was saved, because it writes to no folder"
    )
    return Interrupted(f"{name} ended the run after step {step} of {steps}; {kept}", number)


def not_finite(
    what: str, step: int, ids: Sequence[str], output: Path | None, features: Sequence[str] = ()
) -> ToveError:
    """Return the error for a loss or gradient that is not a number, before it has changed any parameter.

    Args:
        what: what was seen, such as `the loss is nan`.
        step: counted from 1.
        ids: samples whose own loss is not finite, or those of the step where no single one is to blame.
        output: folder of the run; its newest state is named.
        features: experts, or CLIP, whose own values for these samples are not finite.
    """
    seen, cure = blamed(what, step, ids, features)
    if output is None:
        return ToveError(f"{seen}; nothing was saved, because the run writes to no folder; {cure}")
    cure += f" in {output / CONFIG}"
    found = states(output / STATE)
    if found:
        return ToveError(f"{seen}; the last good state is {found[0]}; {cure}, and go on from it with {go_on(output)}")
    return ToveError(
        f"{seen}; no state was saved; {cure}, set training.save_every there, and begin anew with {go_on(output)}"
    )


def blamed(
    what: str, step: int, ids: Sequence[str], features: Sequence[str] = (), *, rate: str = "training.learning_rate"
) -> tuple[str, str]:
    """Return what was seen of a loss or gradient that is not a number, and what to do; arguments as for `not_finite`.

    Args:
        rate: the key of the learning rate.
    """
    ids = list(dict.fromkeys(ids))  # a batch that ends one epoch and begins the next may hold a sample twice
    shown = ", ".join(repr(name) for name in ids[:5]) + (", ..." if len(ids) > 5 else "")
    seen = f"{what} at step {step} (samples {shown})"
    if not features:
        return seen, f"look at these samples, or lower {rate}"
    names = ", ".join(map(repr, dict.fromkeys(features)))
    seen += f", for which {names} gives values that are not finite"
    return seen, "look at these samples, or leave the expert out"


@contextmanager
def encoding_named(model: ToveModel, images: int) -> Iterator[None]:
    """Say what to make smaller where CLIP and the experts do not fit into memory.

    Args:
        model: whose largest expert is named.
        images: taken at a time.

    Raises:
        PlacementError: memory ran out; an expert with a micro-batch of its own has named itself.
    """
    try:
        yield
    except PlacementError:
        raise
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        sizes = {name: sum(p.numel() for p in model.experts[name].parameters()) for name in model.active_experts}
        largest = max(sizes, key=lambda name: sizes[name], default=None)
        cure = f"give the largest expert, {largest!r}, micro_batch auto or offload" if largest else "use a smaller CLIP"
        raise PlacementError(
            f"memory ran out while CLIP and the experts saw {images} images; {cure}, or raise training.accumulate"
        ) from error


@contextmanager
def memory_named(step: int, size: int, config: TrainingConfig, output: Path | None = None) -> Iterator[None]:
    """Say what to make smaller where a step does not fit into memory. An expert that does not fit names itself.

    Args:
        step: counted from 1.
        size: samples this process takes at a time.
        output: folder of the run, if it has one; its configuration is what is to be changed.

    Raises:
        PlacementError: memory ran out.
    """
    again = f"; change {output / CONFIG} and go on with {go_on(output)}" if output else ""
    try:
        yield
    except PlacementError as error:
        raise PlacementError(f"{error}{again}") from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        more = min(2 * config.accumulate, config.batch_size)
        less = "use a smaller model"
        if size > 1:
            less = f"set training.accumulate to {more}, which gives the same result"
        saves = "" if config.checkpointing else ", or set training.checkpointing"
        raise PlacementError(
            f"memory ran out at step {step}, with {size} samples at a time in fusion and decoder; {less}{saves}{again}"
        ) from error
