"""What a cache of a million made-up images costs to open."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tove_core.data.cache.folder import FeatureCache
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.resident import peak_resident

IMAGES, FEATURES, ROWS = 1_000_000, 6, 1_000
_OPEN = "import sys; from tove_core.demo.cache_opening import time_opening; time_opening(sys.argv[1])"


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
    before, start = peak_resident() or 0, time.perf_counter()
    cache = FeatureCache(Path(folder))
    stores = cache.stores()
    digests = stores[0].keys[np.random.default_rng(1).permutation(len(stores[0]))]
    del stores
    found = cache.select(_made_up(), digests, [])
    seconds = time.perf_counter() - start
    missing = sum(int((rows < 0).sum()) for _, rows in found.values())
    shards = sum(len(store.shards) for store, _ in found.values())
    told = {"images": len(digests), "missing": missing, "shards": shards, "seconds": round(seconds, 2)}
    print(json.dumps(told | {"before": before, "peak": peak_resident() or 0}))


def report_opening(images: int = IMAGES) -> str:
    """Return what opening a made-up cache takes, measured in a process of its own, as text."""
    with tempfile.TemporaryDirectory() as name:
        write_million(Path(name), images)
        done = subprocess.run([sys.executable, "-c", _OPEN, name], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    before, peak = told["before"] / 1e6, told["peak"] / 1e6
    return (
        f"opening {told['images']:,} images of {FEATURES} features in {told['shards']:,} shards, {told['missing']} not "
        f"found: {told['seconds']} s, peak memory {peak:.0f} MB (of which {before:.0f} MB before)"
    )


def _made_up() -> list[FeatureFingerprint]:
    return [FeatureFingerprint(f"made-up-{k}", (1, 1), {"number": k}) for k in range(FEATURES)]
