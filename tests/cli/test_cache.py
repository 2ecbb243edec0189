from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Tove = Callable[..., Any]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def config(toy: Any, tmp_path: Path) -> Path:
    model = {
        "clip": {"name": toy.clip},
        "experts": ["toy-fine", "toy-wide"],
        "fusion": {"gate": {"hidden": 6}},
        "decoder": {"name": toy.decoder, "max_new_tokens": 4},
    }
    training = {"steps": 3, "batch_size": 5, "warmup": 1, "log_every": 1}
    path = tmp_path / "run.yaml"
    whole = {"model": model, "data": {"path": str(toy.data)}, "training": training, "output": str(tmp_path / "run")}
    path.write_text(yaml.safe_dump(whole))
    return path


def test_a_cache_is_built_shown_checked_trained_from_and_pruned(tove: Tove, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    told = tove("cache", "build", config, "--out", out, "--estimate")
    assert "12 images; to compute: clip 12, toy-fine 12, toy-wide 12" in told.out and "needs up to" in told.out
    assert not list(out.glob("*/*.safetensors"))
    built = tove("cache", "build", config, "--out", out, "--dtype", "float32", "--dtype", "toy-wide=float16", "--quiet")
    assert built.code == 0 and "computed clip 12, toy-fine 12, toy-wide 12; 0 images were there already" in built.out
    assert "12 images were there already" in tove("cache", "build", config, "--out", out, "--dtype", "float32",
                                              "--dtype", "toy-wide=float16", "--quiet").out  # fmt: skip
    shown = tove("cache", "info", out).out
    assert "clip: 12 images of 25x32, float32" in shown and "toy-wide: 12 images of 25x33, float16" in shown
    assert "toy-experts 1.0 toy-wide" in shown
    told = json.loads(tove("cache", "info", out, "--json").out)
    assert told["damaged"] == told["unfinished"] == [] and sum(one["bytes"] for one in told["features"]) > 0
    wide = next(one for one in told["features"] if one["name"] == "toy-wide")
    assert (wide["images"], wide["shape"], wide["dtype"]) == (12, [25, 33], "float16") and Path(wide["folder"]).is_dir()
    assert "4 of 4 shards are intact" in tove("cache", "verify", out, "--quiet").out
    done = tove("train", config, "--quiet", "--set", f"training.cache={out}")
    assert done.code == 0, done
    memory = tove("train", config, "--quiet", "--set", f"output={tmp_path / 'memory'}")
    assert memory.code == 0
    pair = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("run", "memory")
    ]
    assert pair[0] == pytest.approx(pair[1], rel=1e-3)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["training"]["cache"] == str(out)
    would = tove("cache", "prune", out, "--keep", "clip", "--dry-run").out
    assert would.count("would remove") == len(list(out.glob("toy-*"))) and list(out.glob("toy-*"))
    assert "freed" in tove("cache", "prune", out, "--keep", "clip").out and not list(out.glob("toy-*"))
    assert (
        "'toy-fine' is not in"
        in tove(
            "train", config, "--quiet", "--set", f"training.cache={out}", "--set", f"output={tmp_path / 'third'}"
        ).error
    )


def test_damage_is_found_and_mended(tove: Tove, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    tove("cache", "build", config, "--out", out, "--quiet")
    path = next(out.glob("toy-fine-*/*.safetensors"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    found = tove("cache", "verify", out, "--quiet")
    assert f"damaged: {path}" in found.out and "--remove" in found.error
    assert "removed 1" in tove("cache", "verify", out, "--remove", "--quiet").out
    assert "computed clip 0, toy-fine 12, toy-wide 0" in tove("cache", "build", config, "--out", out, "--quiet").out
    path.write_bytes(path.read_bytes()[:-5])
    refused = tove("train", config, "--quiet", "--set", f"training.cache={out}")
    assert "is damaged" in refused.error and "tove cache verify --remove" in refused.error


def test_broken_images_are_named_and_end_in_exit_code_one(
    tove: Tove, config: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tove_core.training import run

    monkeypatch.setattr(run, "CALIBRATION_IMAGES", 5)  # the broken one comes after those
    lines = [json.loads(line) for line in toy.data.read_text().splitlines()]
    for line in lines:
        line["image"] = str(toy.data.parent / line["image"])
    (tmp_path / "empty.png").write_bytes(b"")
    lines.append(lines[0] | {"id": "broken", "image": str(tmp_path / "empty.png")})
    shutil.copy(lines[0]["image"], tmp_path / "again.png")
    lines.append(lines[0] | {"id": "again", "image": str(tmp_path / "again.png")})
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    done = tove("cache", "build", config, "--out", tmp_path / "c", "--quiet", "--set", f"data.path={data}")
    assert "of 14 images computed clip 12, toy-fine 12, toy-wide 12; 0 images were there already" in done.out
    assert "; 1 has the content of another; 1 could not be read" in done.out
    assert "1 images could not be read" in done.error and "empty.png" in done.error


@pytest.mark.parametrize("word", ["float64", "clip=half", "clip="])
def test_a_dtype_that_is_none_is_refused(tove: Tove, config: Path, tmp_path: Path, word: str) -> None:
    done = tove("cache", "build", config, "--out", tmp_path / "c", "--dtype", word)
    assert "choose one of float32, float16, float8" in done.error and not (tmp_path / "c").exists()


@pytest.mark.parametrize("command", ["info", "verify", "prune"])
def test_a_folder_without_a_cache_is_refused(tove: Tove, tmp_path: Path, command: str) -> None:
    assert "holds no feature cache" in tove("cache", command, tmp_path).error
