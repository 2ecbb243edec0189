from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tove_core.training.table import build_table

pytestmark = pytest.mark.slow
SHARING = Path(__file__).with_name("sharing.py")
WORLDS = {"alone": 1, "two": 2, "three": 3, "few": 3, "broken": 3, "strict": 2, "fails": 3}


@pytest.fixture(scope="module")
def damaged(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy data, where images 2, 3 and 9 hold no picture."""
    folder = tmp_path_factory.mktemp("damaged")
    for path in toy.data.parent.iterdir():
        (folder / path.name).write_bytes(b"x" if path.stem in ("2", "3", "9") else path.read_bytes())
    return folder / "toy.jsonl"


@pytest.fixture(scope="module")
def runs(toy: Any, processes: Any, damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("exchange")
    few = damaged.with_name("few.jsonl")
    few.write_text("".join(f"{line}\n" for line in damaged.read_text().splitlines()[:2]))
    more: dict[str, dict[str, Any]] = {
        "three": {"at_once": 1},  # one image at a time
        "broken": {"data": str(damaged), "max_broken": 0.25},
        "strict": {"data": str(damaged), "max_broken": 0.2},  # neither process alone finds too many
        "fails": {"fail": 1},
        "few": {"data": str(few)},
    }
    jobs = [processes.job(toy, root / name, world, **more.get(name, {})) for name, world in WORLDS.items()]
    (root / "jobs.json").write_text(json.dumps(jobs))
    paths = os.pathsep.join((str(toy.site), str(SHARING.parent)))
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(SHARING), str(root / "jobs.json")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return root


def seen(runs: Path, name: str) -> list[dict[str, Any]]:
    found = []
    for rank in range(WORLDS[name]):
        error = runs / name / f"error-{rank}.txt"
        assert not error.exists(), error.read_text()
        found.append(json.loads((runs / name / f"{rank}.json").read_text()))
    return found


@pytest.mark.parametrize("name", ["two", "three"])
def test_each_process_encodes_its_part_and_all_have_all(runs: Path, name: str) -> None:
    found = seen(runs, name)
    assert [one["error"] for one in found] == [None] * len(found)
    assert [one["encoded"] for one in found] == [12 // len(found)] * len(found)
    wanted = load_file(runs / "alone" / "0.safetensors")
    first = load_file(runs / name / "0.safetensors")
    for rank in range(len(found)):
        own = load_file(runs / name / f"{rank}.safetensors")
        assert own.keys() == wanted.keys()
        for feature, value in own.items():
            assert value.dtype == torch.float16 and torch.equal(value, first[feature])
            torch.testing.assert_close(value, wanted[feature], rtol=2e-3, atol=2e-3)
    assert all(one["told"][-1] == [12, 12] for one in found)


def test_more_processes_than_images_encode_all_each(runs: Path) -> None:
    found = seen(runs, "few")
    assert [one["encoded"] for one in found] == [2, 2, 2] and [one["ids"] for one in found] == [["s0", "s1"]] * 3


def test_what_one_process_cannot_read_all_know_and_one_warns_of(runs: Path) -> None:
    found = seen(runs, "broken")
    assert [one["encoded"] for one in found] == [4, 4, 4]  # a blank image in the place of each
    for one in found:
        assert one["error"] is None and list(one["broken"]) == ["2", "3", "9"] and one["broken"] == found[0]["broken"]
        assert one["ids"] == [f"s{number}" for number in range(12) if number not in (2, 3, 9)]
        assert one["rows"] == [[number] for number in range(12) if number not in (2, 3, 9)]
    left_out = [sum("left out" in text for text in one["warned"]) for one in found]
    assert left_out == [2, 0, 1]


def test_too_many_unreadable_images_of_all_processes_are_an_error_in_each(runs: Path) -> None:
    for one in seen(runs, "strict"):
        assert one["error"].startswith("DataError: 3 of 12 images cannot be used, more than data.max_broken (0.2)")


def test_a_process_that_fails_ends_the_others_with_its_reason(runs: Path) -> None:
    found = [one["error"] for one in seen(runs, "fails")]
    assert found[1] == "RuntimeError: the card caught fire"
    wanted = "DataError: process 1 of 3 failed while it encoded its part of the images: the card caught fire"
    assert found[0] == found[2] == wanted


def test_a_process_alone_shares_with_nobody(toy: Any) -> None:
    model = toy.build(("toy-fine",))
    examples = toy.examples(model)
    found = build_table(model, examples.images, examples.broken, together=True)
    assert all(torch.equal(value, found.features[name]) for name, value in examples.table.features.items())
