"""Run by tests in a process of its own: imports once, then forks the processes of each job.

A job is a JSON object; see `work` for its keys. What a process raises is written to `error-RANK.txt` in its output.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

import tove_core
from tove_core.config import DataConfig, TrainingConfig
from tove_core.data.readers import read
from tove_core.run_folder import STATE, states
from tove_core.training.examples import Examples
from tove_core.training.loop import fit
from tove_core.training.processes import join
from tove_core.training.run import prepare
from tove_core.training.validation import Validation

torch.set_num_threads(1)


class Stopped(Exception):
    pass


def work(job: dict[str, Any], rank: int) -> None:
    """Train the toy model as one of the job's processes."""
    output = Path(job["output"])
    join(None, job["world"])
    if job.get("spawned_seed") is not None:
        torch.manual_seed(job["spawned_seed"] + rank)
    model = tove_core.build(**job["model"])
    samples = read(DataConfig(path=Path(job["data"])))
    prepare(model, samples)
    if job.get("off"):
        model.detach(job["off"])

    def after(done: int) -> None:
        held.append({name: _held(p) for name, p in model.decoder.language_model.named_parameters()})
        if done == job.get("stop"):
            raise Stopped
        if done == job.get("term") and rank == job["world"] - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    held: list[dict[str, int]] = []
    if job.get("full") == rank:
        (output / "metrics.jsonl").symlink_to("/dev/full")
    if job.get("live"):
        examples = Examples(model, samples, max_broken=job["live"], workers=0)
    else:
        examples = Examples.cached(model, samples)
    if job.get("limit"):
        model.decoder.language_model.config.max_position_embeddings = job["limit"]
    if job.get("spoil") == rank:
        examples.table.features["clip"][:] = float("nan")
    resume = bool(job.get("resume")) and bool(states(output / STATE))
    settings = TrainingConfig.model_validate(job["training"])
    held_out = None
    if settings.validate_every:
        held_out = Validation(model, model.decoder, examples.some(range(7)), settings.validate_every)
    options = {"seed": 11, "output": output, "resume": resume, "quiet": True, "after_step": after}
    fit(model, examples, settings, **options, validation=held_out)
    tensors = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    save_file(tensors, output / f"final-{rank}.safetensors")
    left_out = {str(row): reason for row, reason in examples.broken.reasons.items()}
    (output / f"left-out-{rank}.json").write_text(json.dumps(left_out))
    if job.get("whole"):
        (output / f"held-{rank}.json").write_text(json.dumps(held))
        if rank == 0:
            model.save_pretrained(output / "checkpoint", full=True)


def _held(parameter: torch.Tensor) -> int:
    """Return how many elements of a parameter this process has."""
    return parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()


def fork(job: dict[str, Any]) -> list[int]:
    """Start a job's processes."""
    Path(job["output"]).mkdir(parents=True, exist_ok=True)
    port = _free_port()
    return [_child(job, rank, port) for rank in range(job["world"])]


def _free_port() -> int:
    """Return a free port below those that a system hands out, of which another test could be given the same."""
    while True:
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port := random.SystemRandom().randint(15_000, 30_000)))
            return port


def _child(job: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 0
    if job["world"] > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(job["world"])}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(job["world"])}
    try:
        work(job, rank)
    except Stopped:
        pass
    except BaseException as error:
        code = 1
        text = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
        (Path(job["output"]) / f"error-{rank}.txt").write_text(text)
    os._exit(code)


def run(job: dict[str, Any]) -> float:
    """Run a job to its end and return the seconds it took."""
    start = time.monotonic()
    for child in fork(job):
        os.waitpid(child, 0)
    return time.monotonic() - start


def torture(job: dict[str, Any], seconds: float) -> None:
    """Kill a job `kills` times at random moments of its run, which goes on each time, then let it end."""
    draw = random.Random(job["seed"])
    for _ in range(job["kills"]):
        (child,) = fork(job)
        time.sleep(draw.uniform(0.3, 0.9) * seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(job)


if __name__ == "__main__":
    took = 0.0
    for each in json.loads(Path(sys.argv[1]).read_text()):
        if each.get("copy"):
            shutil.copytree(each["output"], each["copy"])
        elif each.get("kills"):
            torture(each, took)
        else:
            took = run(each)
