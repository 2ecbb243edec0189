"""What reading features from disk costs a training step, and what a million images cost to open."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from tove_core.config import TrainingConfig
from tove_core.data.cache.codec import EXACTNESS
from tove_core.data.cache.folder import FeatureCache
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.demo.world import SMALL, World
from tove_core.training.cached import build_cache, cache_builder, open_cache
from tove_core.training.examples import Examples
from tove_core.training.loop import fit

IMAGES, FEATURES, ROWS = 1_000_000, 6, 1_000
_OPEN = "import sys; from tove_core.demo.cache_bench import time_opening; time_opening(sys.argv[1])"


def step_times(steps: int = 15, rounds: int = 3) -> dict[str, list[float]]:
    """Return seconds per training step on the embedded world, one median a round, by where the features are.

    Every round trains once on each, so that what else the machine does falls on all of them.

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
    fit(world.hub, examples, config, quiet=True, after_step=lambda _: ends.append(time.perf_counter()))
    taken = [after - before for before, after in pairwise(ends)]
    return statistics.median(taken[config.steps // 5 :])


def write_million(folder: Path, images: int = IMAGES) -> None:
    """Write a cache of that many made-up images: `FEATURES` features of one token and one channel."""
    draw, cache = np.random.default_rng(0), FeatureCache(folder)
    stores = [cache.find_or_create(one, "float16") for one in _made_up()]
    values = {"f": torch.zeros(ROWS, 1, 1, dtype=torch.float16)}
    for _ in range(0, images, ROWS):
        keys = draw.integers(0, 256, (ROWS, 32), dtype=np.uint8)
        for store in stores:
            store.append([key.tobytes() for key in keys], values)


def time_opening(folder: str) -> None:
    """Print seconds and megabytes for opening the made-up cache and finding every image in every feature, as JSON."""
    before, start = _peak(), time.perf_counter()
    cache = FeatureCache(Path(folder))
    stores = cache.stores()
    digests = np.concatenate([shard.keys() for shard in stores[0].shards])
    order = np.random.default_rng(1).permutation(len(digests))
    found = cache.select(_made_up(), digests[order], [])
    seconds = time.perf_counter() - start
    missing = sum(int((rows < 0).sum()) for _, rows in found.values())
    shards = sum(len(store.shards) for store in stores)
    told = {"images": len(digests), "missing": missing, "shards": shards, "seconds": round(seconds, 2)}
    print(json.dumps(told | {"before_mb": round(before), "peak_mb": round(_peak())}))


def report_steps(steps: int, rounds: int) -> str:
    """Return `step_times` as text."""
    times = step_times(steps, rounds)
    base = statistics.median(times["memory"])
    lines = ["training step on the embedded world, batches of 32, median of the rounds' medians:"]
    for where, taken in times.items():
        ratios = [one / other for one, other in zip(taken, times["memory"], strict=True)]
        middle = statistics.median(taken)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f} by round"
        lines.append(f"  {where:<14} {middle * 1e3:7.2f} ms   {middle / base:.3f} of memory ({spread})")
    return "\n".join(lines)


def report_opening(images: int = IMAGES) -> str:
    """Return what opening a made-up cache takes, measured in a process of its own, as text."""
    with tempfile.TemporaryDirectory() as name:
        write_million(Path(name), images)
        done = subprocess.run([sys.executable, "-c", _OPEN, name], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    return (
        f"opening {told['images']:,} images of {FEATURES} features in {told['shards']:,} shards, {told['missing']} not "
        f"found: {told['seconds']} s, peak memory {told['peak_mb']} MB (of which {told['before_mb']} MB before)"
    )


def _made_up() -> list[FeatureFingerprint]:
    return [FeatureFingerprint(f"made-up-{k}", (1, 1), {"number": k}) for k in range(FEATURES)]


def _peak() -> float:
    """Return the largest resident size so far in MB, as Linux counts it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
