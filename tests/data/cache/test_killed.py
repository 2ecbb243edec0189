from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TURNS = int(os.environ.get("TOVE_TORTURE", "3"))
IMAGES = 14 * TURNS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied with fork")
def test_builds_that_are_killed_lose_the_shard_they_wrote_and_nothing_else(tmp_path: Path) -> None:
    draw, images = np.random.default_rng(4), [tmp_path / f"{n}.png" for n in range(IMAGES)]
    for path in images:
        Image.fromarray(draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(path)
    script = Path(__file__).with_name("killing.py")
    seed = os.environ.get("TOVE_TORTURE_SEED", "7")
    done = subprocess.run(
        [sys.executable, script, tmp_path / "cache", str(TURNS), seed, *images],
        capture_output=True,
        text=True,
        timeout=60 + 5 * TURNS,
    )
    assert done.returncode == 0, done
    *turns, last = map(json.loads, done.stdout.splitlines())
    assert len(turns) == TURNS
    assert [turn for turn in turns if turn["damaged"] or turn["kept"] < 0] == []
    assert last["codes"] == [0, 0] and last["right"] and last["unfinished"] == 0
    # At most one batch is computed again after each kill, and everything left twice by the last two at once.
    kept = sum(turn["kept"] for turn in turns)
    assert last["computed"] <= kept + 2 * TURNS + 2 * (IMAGES - kept)
