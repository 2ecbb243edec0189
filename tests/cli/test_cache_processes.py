from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tove_core.training.cached import open_cache

Tove = Callable[..., Any]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
IMAGES = 61
DISTINCT = IMAGES - 1
SLOW = Path(__file__).with_name("slow_build.py")


@pytest.fixture(scope="module")
def config(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 61 image files, two of which have the same content."""
    folder, draw, lines = tmp_path_factory.mktemp("processes"), np.random.default_rng(2), []
    for number in range(IMAGES):
        path = folder / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (19 + number % 7, 23, 3), dtype=np.uint8)).save(path)
        lines.append({"id": str(number), "image": str(path), "text": "a green or a blue square?"})
    (folder / "60.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = {"clip": {"name": toy.clip}, "experts": ["toy-fine", "toy-wide"], "decoder": {"name": toy.decoder}}
    (folder / "run.yaml").write_text(yaml.safe_dump({"model": model, "data": {"path": str(folder / "data.jsonl")}}))
    return folder / "run.yaml"


def started(toy: Any, *words: object, **environment: object) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(toy.site), "OMP_NUM_THREADS": "1", "TOVE_OFFLINE": "1"}
    env |= {name: str(value) for name, value in environment.items()}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    """Return a free port below those that a system hands out, of which another test could be given the same."""
    while True:
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("localhost", port := random.SystemRandom().randint(15_000, 30_000)))
            return port


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    assert "error: " not in out
    return process.returncode, out, err


def kill_one_of_two(toy: Any, build: tuple[object, ...], out: Path, pids: Path) -> None:
    """Start a build in two processes under torchrun, and kill the second one when some shards are written."""
    pids.mkdir()
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    launcher = started(toy, *torchrun, SLOW, *build, PIDS=pids)
    until = time.monotonic() + 200
    while len(list(out.glob("toy-wide-*/*.safetensors"))) < 6 or not (pids / "1").is_file():
        assert time.monotonic() < until and launcher.poll() is None, launcher.communicate()
        time.sleep(0.02)
    os.kill(int((pids / "1").read_text()), signal.SIGKILL)
    code, _, err = finished(launcher)
    assert code == 1 and "Signal 9 (SIGKILL)" in err, err


def stored(tove: Tove, out: Path) -> int:
    """Return how many images CLIP's feature holds, after seeing that whatever is there is whole."""
    shown = tove("cache", "verify", out, "--quiet")
    assert shown.code == 0 and "shards are intact" in shown.out, shown
    return int(tove("cache", "info", out).out.partition("clip: ")[2].partition(" images")[0])


def test_processes_share_a_build_that_goes_on_in_another_number_after_one_was_killed(
    tove: Tove, toy: Any, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    build = ("cache", "build", config, "--out", out, "--dtype", "float32", "--batch-size", 2, "--quiet")
    kill_one_of_two(toy, build, out, tmp_path / "pids")
    kept = stored(tove, out)
    assert 12 <= kept < DISTINCT

    # Three processes go on, and an image of the first one's is broken, which must end neither of the others.
    data, bad = tmp_path / "data.jsonl", tmp_path / "broken.png"
    bad.write_bytes(b"none")
    broken = json.dumps({"id": "broken", "image": str(bad), "text": "a red square"})
    data.write_text(broken + "\n" + (config.parent / "data.jsonl").read_text())
    more = ("--set", f"data.path={data}", "--nproc", 3)
    code, told, err = finished(started(toy, "tove_core", *build, *more))
    assert code == 1 and "Traceback" not in err, err
    assert "1 images could not be read (first: " in err and "process 0 of 3 failed, see above" in err
    assert "62 images; to compute: clip" in told
    lines = sorted(line for line in told.splitlines() if line.startswith("process "))
    assert [line[:10] for line in lines] == ["process 0:", "process 1:", "process 2:"], told
    computed = sum(int(line.partition("clip ")[2].partition(",")[0]) for line in lines)
    assert DISTINCT - kept <= computed <= DISTINCT - kept + 1  # what is there twice may be two processes'

    again = tove(*build)
    assert (
        again.code == 0 and f"computed clip 0, toy-fine 0, toy-wide 0; {IMAGES} images were there already" in again.out
    ), again
    assert tove("cache", "prune", out).code == 0 and not list(out.rglob(".*.tmp"))
    assert stored(tove, out) in (kept + computed, DISTINCT)
    compare_with_one_process(tove, toy, config, out, tmp_path / "alone")


def compare_with_one_process(tove: Tove, toy: Any, config: Path, out: Path, alone: Path) -> None:
    from tove_core.cli.cache_build import _subject

    assert tove("cache", "build", config, "--out", alone, "--dtype", "float32", "--batch-size", 2, "--quiet").code == 0
    model, samples = _subject(config, [], [], False, None)
    together, wanted = (open_cache(model, samples, folder).gather(range(IMAGES)) for folder in (out, alone))
    for name, feature in wanted.items():
        torch.testing.assert_close(together[name], feature, atol=1e-5, rtol=1e-5)


def test_machines_share_a_build_when_the_same_command_is_started_on_each(
    tove: Tove, toy: Any, config: Path, tmp_path: Path
) -> None:
    meeting = f"localhost:{free_port()}"
    out = tmp_path / "cache"
    build = ("cache", "build", config, "--out", out, "--dtype", "float32", "--batch-size", 8, "--quiet", "--nnodes", 2)
    machines = [started(toy, "tove_core", *build, "--node-rank", rank, "--rdzv-endpoint", meeting) for rank in (0, 1)]
    (code, told, err), (other_code, other, other_err) = map(finished, machines)
    assert code == other_code == 0, err + other_err
    lines = sorted(line for line in told.splitlines() if line.startswith("process "))
    assert [line[:10] for line in lines] == ["process 0:", "process 1:"] and "computed" not in other, told + other
    computed = [int(line.partition("clip ")[2].partition(",")[0]) for line in lines]
    assert min(computed) >= 29 and sum(computed) in (DISTINCT, IMAGES)
    assert stored(tove, out) == sum(computed)
