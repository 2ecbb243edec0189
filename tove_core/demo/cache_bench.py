"""What reading features from disk costs a training step."""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tove_core.config import TrainingConfig
from tove_core.data.cache.codec import EXACTNESS
from tove_core.demo.world import SMALL, World
from tove_core.training.cached import build_cache, cache_builder, open_cache
from tove_core.training.examples import Examples
from tove_core.training.loop import fit


def step_times(steps: int = 15, rounds: int = 3) -> dict[str, list[float]]:
    """Return CPU seconds per training step on the embedded world, one median a round, by where the features are.

    Every round trains once on each. CPU time counts the system's share, and not what else the machine does.

    Args:
        steps: of a round; a fifth of them are not counted.
        rounds: how often each is measured.
    """
    world = World(SMALL)
    config = TrainingConfig(steps=steps, batch_size=32, learning_rate=1e-4)
    with tempfile.TemporaryDirectory() as name:
        tables: dict[str, Examples] = {"memory": world.examples(world.hub, world.train)}
        for dtype in EXACTNESS:
            folder = Path(name) / dtype
            build_cache(world.hub, cache_builder(world.hub, world.train, folder, default=dtype))
            table = open_cache(world.hub, world.train, folder)
            tables[f"disk {dtype}"] = Examples(world.hub, world.train, table)
        times: dict[str, list[float]] = {where: [] for where in tables}
        for _ in range(rounds):
            for where, examples in tables.items():
                times[where].append(_median_step(world, examples, config))
    return times


def _median_step(world: World, examples: Examples, config: TrainingConfig) -> float:
    ends: list[float] = []
    fit(world.hub, examples, config, quiet=True, after_step=lambda _: ends.append(time.process_time()))
    taken = [after - before for before, after in pairwise(ends)]
    return statistics.median(taken[config.steps // 5 :])


def report_steps(steps: int, rounds: int) -> str:
    """Return `step_times` as text."""
    times = step_times(steps, rounds)
    base = statistics.median(times["memory"])
    lines = ["CPU time of a training step on the embedded world, batches of 32, median of the rounds' medians:"]
    for where, taken in times.items():
        ratios = [one / other for one, other in zip(taken, times["memory"], strict=True)]
        middle = statistics.median(taken)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f} by round"
        lines.append(f"  {where:<14} {middle * 1e3:7.2f} ms   {middle / base:.3f} of memory ({spread})")
    return "\n".join(lines)
