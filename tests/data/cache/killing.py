"""Builds a cache in processes that are killed at random moments; says after each what was left.

Arguments: folder of the cache, number of kills, seed, pictures. One process imports torch; the others are its copies.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tove_core.data.cache.build import Builder
from tove_core.data.cache.care import damaged_shards, superfluous
from tove_core.data.cache.folder import FeatureCache
from tove_core.data.fingerprint import FeatureFingerprint
from tove_core.hub.images import read_image

SHAPES = {"clip": (49, 64), "edges": (49, 16)}
BATCH = 2


def encode(pixels: list[torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    means = torch.stack([image.double().mean().float() for image in pixels])[:, None, None]
    return {name: means.expand(-1, *SHAPES[name]).clone() for name in names}


def builder(folder: Path, images: list[Path]) -> Builder:
    cache = FeatureCache(folder)
    wanted = [FeatureFingerprint(name, shape, {"weights": name}) for name, shape in SHAPES.items()]
    return Builder(folder, {one.name: cache.find_or_create(one, "float32") for one in wanted}, images, shard_bytes=1)


def build(folder: Path, images: list[Path]) -> None:
    with (folder.parent / "computed").open("ab", buffering=0) as log:

        def counted(pixels: list[torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
            log.write(b"." * len(pixels))
            return encode(pixels, names)

        builder(folder, images).run(counted, read_image, batch_size=BATCH, workers=1)


def start(folder: Path, images: list[Path]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            build(folder, images)
            code = 0
        finally:
            os._exit(code)
    return child


def rows(folder: Path) -> int:
    return min((len(store) for store in FeatureCache(folder).stores()), default=0)


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    images = [Path(path) for path in sys.argv[4:]]
    chance = random.Random(seed)
    for turn in range(kills):
        before = rows(folder)
        child = start(folder, images)
        time.sleep(chance.uniform(0.002, 0.08))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        cache = FeatureCache(folder)
        left = {"kept": rows(folder) - before, "damaged": len(list(damaged_shards(cache)))}
        left |= {"alive": not os.WIFSIGNALED(status), "unfinished": len(cache.leftovers()), "turn": turn}
        print(json.dumps(left), flush=True)
    last = [start(folder, images), start(folder, images)]  # at once
    codes = [os.waitpid(child, 0)[1] for child in last]
    for path in superfluous(FeatureCache(folder)):
        path.unlink()
    stores = FeatureCache(folder).stores()
    rows_read = {store.name: store.index.rows(builder(folder, images).places.digests(images)[0]) for store in stores}
    expected = encode([read_image(path) for path in images], list(SHAPES))
    right = all(torch.equal(store.gather(rows_read[store.name]), expected[store.name]) for store in stores)
    files = sum(1 for path in folder.rglob(".*.tmp"))
    computed = (folder.parent / "computed").stat().st_size
    print(json.dumps({"codes": codes, "right": right, "unfinished": files, "computed": computed}))


if __name__ == "__main__":
    main()
