"""Run by a test in a process with mounts of its own: `tove train` where the disk fills up, and again with room.

Mounts a small tmpfs on the folder it is given; prints what each command said and left as one JSON object.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT, SETTINGS = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
FILLER = ROOT / "filler"
PAGE = os.sysconf("SC_PAGE_SIZE")


def leave(pages: int) -> None:
    """Fill the disk but for so many pages."""
    FILLER.unlink(missing_ok=True)
    free = os.statvfs(ROOT)
    FILLER.write_bytes(b"x" * (free.f_bavail - pages) * free.f_frsize)


def pages(place: Path) -> int:
    """Return what a file, or a folder's files, take on a tmpfs."""
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // PAGE) for path in files)


def tove(name: str, *words: str) -> dict[str, Any]:
    """Run `tove train`, and say how it ended and what is in the run's folder."""
    from tove_core.cli.main import main

    sys.argv = ["tove", "train", *words, "--quiet"]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    folder = ROOT / name
    text = (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").is_file() else ""
    return {
        "code": code,
        "err": [line for line in err.getvalue().splitlines() if line.startswith(("error", "note", "Traceback"))],
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        "steps": [json.loads(line)["step"] for line in text.splitlines()],
        "config": yaml.safe_load((folder / "config.yaml").read_text()) if (folder / "config.yaml").is_file() else None,
    }


def start(name: str, **training: Any) -> list[str]:
    """Write the configuration of a run of that name beside the small disk; return the words that start it."""
    path = Path(sys.argv[2]).with_name(f"{name}.yaml")
    given = SETTINGS["training"] | training
    path.write_text(yaml.safe_dump(SETTINGS | {"training": given, "output": str(ROOT / name)}))
    return [str(path)]


def go() -> dict[str, Any]:
    """Run out of room where the configuration, the metrics, a state and the checkpoint are written, in turn."""
    whole = ROOT / "whole"
    found = {"whole": tove("whole", *start("whole", save_every=10))}
    model = (whole / "checkpoint" / "model.safetensors").read_bytes()
    config, metrics = pages(whole / "config.yaml"), pages(whole / "metrics.jsonl")
    state = pages(next((whole / "state").glob("step-*")))
    shutil.rmtree(whole)
    leave(0)
    found["config"] = tove("config", *start("config"))
    rooms = {
        "metrics": (config + metrics - 1, {}),
        "state": (config + metrics + state * 3 // 2, {"save_every": 10}),
        "checkpoint": (config + metrics + 1, {}),
    }
    for name, (room, more) in rooms.items():
        leave(room)
        found[name] = tove(name, *start(name, **more))
        FILLER.unlink()
        found[f"{name}, again"] = tove(name, str(ROOT / name), "--resume")
        found[f"{name}, again"]["same"] = (ROOT / name / "checkpoint" / "model.safetensors").read_bytes() == model
        shutil.rmtree(ROOT / name)
    return found


if __name__ == "__main__":
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", ROOT], capture_output=True)
    if mounted.returncode:
        sys.exit(77)
    print(json.dumps(go()))
