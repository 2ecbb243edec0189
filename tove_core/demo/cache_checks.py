"""What holding the rows of a cache to their checksums costs whoever reads them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tove_core.data.cache.codec import pack, row_checks
from tove_core.data.cache.folder import FeatureCache
from tove_core.data.cache.store import FeatureStore
from tove_core.data.fingerprint import FeatureFingerprint

SHAPE, BATCH = (196, 768), 32


def report_checks(batches: int = 8, rounds: int = 5) -> str:
    """Return as text what made-up float16 features of 14x14 tokens and 768 channels take to read and to check.

    CPU time of one thread, the median of the rounds; the file lies in the page cache.
    """
    with tempfile.TemporaryDirectory() as name:
        store = _made_up(Path(name), batches * BATCH)
        (shard,) = store.shards
        order = np.random.default_rng(1).permutation(len(store))
        parts = np.split(order, batches)
        for part in parts:
            store.gather(part)  # what is timed below is read a second time, and checked apart
        kept = pack(store.gather(parts[0]), store.dtype, "made-up", [])
        reading = _seconds(lambda: [store.gather(part) for part in parts], rounds) / batches
        checking = _seconds(lambda: row_checks(kept), rounds)
        hashing = _seconds(shard.is_intact, rounds)
    size = BATCH * store.row_bytes() / 1e9
    return (
        f"{BATCH} rows of a feature, {1e3 * size:.1f} MB of float16: {1e3 * reading:.1f} ms of CPU to read, and "
        f"{1e3 * checking:.1f} ms to check, the first time alone ({size / checking:.2f} GB/s; the sha256 of verify: "
        f"{shard.size / 1e9 / hashing:.2f} GB/s)"
    )


def _made_up(folder: Path, rows: int) -> FeatureStore:
    draw = np.random.default_rng(0)
    store = FeatureCache(folder).find_or_create(FeatureFingerprint("made-up", SHAPE, {}), "float16")
    values = torch.from_numpy(draw.standard_normal((rows, *SHAPE), np.float32))
    keys = [draw.bytes(32) for _ in range(rows)]
    store.append(keys, pack(values, "float16", "made-up", [str(row) for row in range(rows)]))
    return store


def _seconds(work: Callable[[], object], rounds: int) -> float:
    """Return CPU seconds, the median of the rounds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)
