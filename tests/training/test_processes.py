from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tove_core.cli.runs import _words
from tove_core.errors import ConfigError
from tove_core.training.launch import Launch
from tove_core.training.processes import join, own_device

pytestmark = pytest.mark.slow


def mixed(toy: Any, folder: Path) -> str:
    """Write the toy data with two images for every third sample."""
    lines = [json.loads(line) for line in toy.data.read_text().splitlines()]
    for number, line in enumerate(lines):
        names = [f"{number}.png", "1.png"][: 2 if number % 3 == 0 else 1]
        line["image"] = [str(toy.data.parent / name) for name in names]
    path = folder / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def damaged(toy: Any, folder: Path) -> str:
    """Write the toy data where images 2 and 9 hold no picture."""
    for number in (2, 9):
        (folder / f"{number}.png").write_bytes(b"x")
    lines = [json.loads(line) for line in toy.data.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["image"] = str((folder if number in (2, 9) else toy.data.parent) / f"{number}.png")
    path = folder / "damaged.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def wordy(toy: Any, folder: Path) -> str:
    """Write the toy data with a text that is too long for a short language model."""
    lines = [json.loads(line) for line in toy.data.read_text().splitlines()]
    for line in lines:
        line["image"] = str(toy.data.parent / line["image"])
    lines[5]["answer"] = "black " * 200
    path = folder / "wordy.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def accumulated(world: int) -> dict[str, int]:
    return {"accumulate": 3 - world}


@pytest.fixture(scope="module")
def runs(toy: Any, processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run everything that needs processes of its own, in one interpreter."""
    root = tmp_path_factory.mktemp("processes")
    job, plain = processes.job, processes.steady(toy, root / "steady")
    jobs = [
        job(toy, root / "one", 1, plain, training={"validate_every": 3}),
        job(toy, root / "two", 2, plain, training={"validate_every": 3}),
        job(toy, root / "parts", 1, plain, training={"accumulate": 3}),
        job(toy, root / "two-parts", 2, plain, training={"accumulate": 2}),
        job(toy, root / "detached", 2, plain, off="toy-wide"),
        job(toy, root / "straight", 2),
        job(toy, root / "resumed", 2, stop=5),
        job(toy, root / "resumed", 2, resume=True, spawned_seed=77),
        job(toy, root / "term", 2, term=3),
        {"output": str(root / "term"), "copy": str(root / "terminated")},
        job(toy, root / "term", 2, resume=True, spawned_seed=5),
        job(toy, root / "spoilt", 2, spoil=1),
        job(toy, root / "full", 2, full=0),
        *(job(toy, root / f"broken-{n}", n, plain, data=damaged(toy, root), live=0.2) for n in (1, 2)),
        job(toy, root / "strict", 2, data=damaged(toy, root), live=0.1),
        job(toy, root / "long", 2, data=wordy(toy, root), limit=150),
        *(job(toy, root / f"mixed-{n}", n, plain, data=mixed(toy, root), training=accumulated(n)) for n in (1, 2)),
    ]
    processes.drive(toy, root, jobs)
    return root


@pytest.mark.parametrize("name", ["two", "parts", "two-parts"])
def test_the_loss_curve_does_not_depend_on_processes_or_parts(runs: Path, name: str, processes: Any) -> None:
    alone, together = processes.metrics(runs / "one"), processes.metrics(runs / name)
    assert [line["step"] for line in together] == list(range(1, 9))
    for one, other in zip(alone, together, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert other["balance"] == pytest.approx(one["balance"], abs=1e-5)
        assert other["gate_entropy"] == pytest.approx(one["gate_entropy"], abs=1e-3)
        assert other["gate"] == pytest.approx(one["gate"], abs=1e-3)
    assert alone[-1]["balance"] > 0


def test_neither_does_the_loss_on_held_out_samples(runs: Path, processes: Any) -> None:
    alone, together = (processes.metrics(runs / name) for name in ("one", "two"))
    assert [line["step"] for line in together if "val_loss" in line] == [3, 6, 8]
    assert [line.get("val_loss", 0) for line in together] == pytest.approx(
        [line.get("val_loss", 0) for line in alone], abs=1e-5
    )


def test_neither_do_samples_of_different_numbers_of_images(runs: Path, processes: Any) -> None:
    alone, together = (processes.metrics(runs / f"mixed-{n}") for n in (1, 2))
    assert len(alone) == len(together) == 8
    for one, other in zip(alone, together, strict=True):
        assert [other["loss"], other["balance"]] == pytest.approx([one["loss"], one["balance"]], abs=1e-5)
    first, other = (load_file(runs / "mixed-2" / f"final-{rank}.safetensors") for rank in (0, 1))
    assert [key for key in first if not torch.equal(first[key], other[key])] == []


def test_every_process_ends_with_the_same_parameters(runs: Path) -> None:
    for name in ("two", "two-parts"):
        first, other = (load_file(runs / name / f"final-{rank}.safetensors") for rank in (0, 1))
        assert [key for key in first if not torch.equal(first[key], other[key])] == []


def test_a_detached_expert_does_not_stop_several_processes(runs: Path, processes: Any) -> None:
    assert len(processes.metrics(runs / "detached")) == 8 and (runs / "detached" / "final-1.safetensors").is_file()


@pytest.mark.parametrize("name", ["resumed", "term"])
def test_two_processes_that_stopped_go_on_to_the_last_bit(runs: Path, name: str, processes: Any) -> None:
    wanted, found = (load_file(runs / run / "final-0.safetensors") for run in ("straight", name))
    assert [key for key in wanted if not torch.equal(wanted[key], found[key])] == []
    assert processes.metrics(runs / name) == processes.metrics(runs / "straight")


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs: Path) -> None:
    errors = [(runs / "terminated" / f"error-{rank}.txt").read_text().splitlines()[0] for rank in (0, 1)]
    assert all(
        line.startswith("Interrupted: SIGTERM ended the run after step 4 of 8; its state is in") for line in errors
    )
    assert (runs / "terminated" / "state" / "step-00000004").is_dir()


def test_a_loss_that_is_not_finite_in_one_process_stops_all_and_names_its_samples(runs: Path) -> None:
    first, second = ((runs / "spoilt" / f"error-{rank}.txt").read_text().splitlines()[0] for rank in (0, 1))
    assert first == second
    assert "the loss is nan at step 1" in first and first.count("'s") == 2  # its share of a batch of 5
    assert "no state was saved" in first


def test_what_the_first_process_cannot_write_stops_all_with_its_sentence(runs: Path) -> None:
    first, second = ((runs / "full" / f"error-{rank}.txt").read_text().splitlines()[0] for rank in (0, 1))
    assert first == second and first.startswith("CheckpointError: ")
    assert "metrics.jsonl cannot be written" in first and "No space left" in first


def test_each_process_knows_the_images_that_the_others_could_not_read(runs: Path, processes: Any) -> None:
    alone, *both = (
        json.loads((runs / name).read_text())
        for name in ("broken-1/left-out-0.json", "broken-2/left-out-0.json", "broken-2/left-out-1.json")
    )
    assert alone.keys() == {"2", "9"} and both == [alone, alone]
    for one, other in zip(processes.metrics(runs / "broken-1"), processes.metrics(runs / "broken-2"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("strict", "DataError: 2 of 12 images cannot be used, more than data.max_broken (0.1) allows (last: "),
        (
            "long",
            "DataError: 1 of 12 samples cannot be used, more than data.max_broken (0.001) allows (last: sample 's5'",
        ),
    ],
)
def test_what_one_process_cannot_go_on_with_ends_all_in_the_same_sentence(runs: Path, name: str, words: str) -> None:
    errors = [(runs / name / f"error-{rank}.txt").read_text().splitlines()[0] for rank in (0, 1)]
    assert errors[0] == errors[1] and errors[0].startswith(words)


def test_a_card_that_is_not_there_is_told_before_processes_look_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="the model's device 'cuda' cannot be used here"):
        join("cuda", 2)


def test_several_processes_get_a_card_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda") == "cuda:1" and own_device(None) is None and own_device("cpu") == "cpu"
    for device in ("cuda:0", "mps"):
        with pytest.raises(ConfigError, match=f"cannot share the device '{device}'"):
            own_device(device)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert own_device("mps") == "mps"


def test_a_launch_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="--rdzv-endpoint"):
        Launch(nproc=2, nnodes=2)
    with pytest.raises(ConfigError, match="numbered 0 to 1"):
        Launch(nproc=2, nnodes=2, node_rank=2, rdzv_endpoint="host:1")
    assert Launch(nproc=2, nnodes=3, rdzv_endpoint="host:1").processes == 6
    for given in ({"rdzv_endpoint": "host:1"}, {"node_rank": 0}, {"node_rank": 1}):
        with pytest.raises(ConfigError, match=r"for several machines and there is one; give --nnodes"):
            Launch(nproc=2, **given)


def test_the_words_of_a_command_are_those_it_can_be_started_with() -> None:
    for launch in (Launch(nproc=2), Launch(nproc=2, nnodes=2, rdzv_endpoint="host:1")):
        words = _words(Path("run.yaml"), [], False, [], None, 5, None, None, False, launch)
        given = dict(pairwise(words))
        assert given["--nproc"] == "2" and given.get("--node-rank") == (None if launch.nnodes == 1 else "0")
        assert given.get("--rdzv-endpoint") == launch.rdzv_endpoint and given["--limit"] == "5"


# Asked first and so called last; a thread of gloo's that outlives Python may end the process by SIGABRT.
THREADS_AT_THE_END = """
import atexit, glob, os
if "RANK" in os.environ:
    path = os.path.join({folder!r}, "threads-" + os.environ["RANK"])
    names = lambda: [open(name).read().strip() for name in glob.glob("/proc/self/task/*/comm")]
    atexit.register(lambda: open(path, "w").write(" ".join(names())))
"""


def test_the_command_starts_the_processes_it_was_asked_for_and_fails_in_one_sentence(
    toy: Any, tmp_path: Path, processes: Any
) -> None:
    given = processes.job(toy, tmp_path / "run", training={"steps": 3})
    model = {key: given["model"][key] for key in ("experts", "fusion", "decoder")} | {"clip": {"name": toy.clip}}
    text = {"model": model, "data": {"path": given["data"]}, "training": given["training"], "output": given["output"]}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(text))
    (tmp_path / "sitecustomize.py").write_text(THREADS_AT_THE_END.format(folder=str(tmp_path)))
    paths = os.pathsep.join([str(tmp_path), str(toy.site)])
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOVE_OFFLINE": "1"}

    def tove(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tove_core", "train", str(tmp_path / "run.yaml"), "--nproc", "2", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)

    done = tove()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1 and (tmp_path / "run" / "checkpoint" / "tove.json").is_file()
    assert len(processes.metrics(tmp_path / "run")) == 3
    ended = [(tmp_path / f"threads-{rank}").read_text() for rank in range(2)]
    assert not any("gloo" in threads for threads in ended), ended
    again = tove()
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert "holds a run already" in again.stderr and "of 2 failed" in again.stderr
    misspelt = tove("--set", "training.stepz=3")
    assert misspelt.stderr.count("error") == 1 and "did you mean 'steps'" in misspelt.stderr


def test_a_launcher_that_started_another_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="3 processes were asked for and 1 train together"):
        join(None, 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were asked for and 1 train together"):
        join(None)
