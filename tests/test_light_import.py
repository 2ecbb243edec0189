from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "timm", "transformers", "open_clip", "triton", "torchvision", "accelerate")
REFUSE = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"refused for this test: {{name}}")
sys.meta_path.insert(0, Refuse())
"""


def run(code: str, site: Path | None = None, allowed: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh Python in which nothing heavy can be imported, but for what is allowed."""
    path = os.pathsep.join(str(folder) for folder in (ROOT, ROOT / "kernels", site) if folder)
    env = {key: value for key, value in os.environ.items() if not key.startswith("TOVE_")}
    refusal = REFUSE.replace(repr(HEAVY), repr(tuple(name for name in HEAVY if name not in allowed)))
    env |= {"PYTHONPATH": path, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", refusal + code],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """tove-core as installed, with its built-in experts alone."""
    info = tmp_path / "tove_core-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tove-core\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[tove]\nbuiltin = tove_experts.hooks\n")
    return tmp_path


def test_the_refusal_works():
    done = run("import torch")
    assert done.returncode == 1
    assert "refused for this test: torch" in done.stderr


MODULES = (
    "tove_core",
    "tove_core.spec",
    "tove_core.errors",
    "tove_core.environment",
    "tove_core.hookspecs",
    "tove_core.plugins",
    "tove_core.config",
    "tove_core.licenses",
    "tove_core.settings",
    "tove_experts.hooks",
    "tove_kernels",
)


def test_light_modules_import_without_the_heavy_libraries():
    # Each is forgotten before the next, so that none leans on what an earlier one imported.
    done = run(
        f"import importlib\nfor name in {MODULES!r}:\n"
        "    for gone in [m for m in sys.modules if m.startswith('tove_')]: del sys.modules[gone]\n"
        "    importlib.import_module(name)\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_public_face_offers_what_plugins_need_without_the_heavy_libraries():
    done = run("from tove_core import ExpertSpec, Grid, Input, Variant, Weights, hookimpl, experts, errors")
    assert done.returncode == 0, done.stderr


def test_operators_load_when_first_used():
    done = run("import tove_kernels\nprint(dir(tove_kernels))\ntove_kernels.align_tokens")
    assert "gated_activation_mix" in done.stdout
    assert "refused for this test: torch" in done.stderr


def test_an_unknown_attribute_of_a_lazy_package_is_an_attribute_error():
    done = run(
        "import tove_core, tove_core.training, tove_kernels\n"
        "for package in (tove_core, tove_core.training, tove_kernels):\n"
        "    try: package.nothing\n"
        "    except AttributeError as error: print(error)\n"
    )
    assert done.stdout.count("has no attribute 'nothing'") == 3, done.stderr


def command(*arguments: str, site: Path, allowed: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return run(f"sys.argv = ['tove', *{arguments!r}]\nfrom tove_core.cli.main import main\nmain()", site, allowed)


def test_the_command_line_helps_without_the_heavy_libraries(site):
    done = command("--help", site=site)
    assert done.returncode == 0, done.stderr
    for name in ("train", "detach", "merge", "experts"):
        assert name in done.stdout


@pytest.mark.parametrize("words", [("train",), ("cache", "build", "--out", "cache")], ids=" ".join)
def test_processes_are_started_by_one_that_imports_no_more_than_it_takes_to_start_them(words, site, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("data: {path: data.jsonl}\noutput: run\n")
    asked = [*words, str(config), "--nproc", "2"]
    told = "Launch.start = lambda launch, words: print('started', launch.processes, *words)"
    code = f"sys.argv = ['tove', *{asked!r}]\nfrom tove_core.training.launch import Launch\n{told}\n"
    done = run(f"{code}from tove_core.cli.main import main\nmain()", site, allowed=("torch", "numpy", "triton"))
    assert done.returncode == 0 and f"started 2 {words[0]}" in done.stdout, done.stderr


def test_pushing_is_explained_without_the_heavy_libraries(site):
    done = command("push", "--help", site=site)
    assert done.returncode == 0, done.stderr
    assert "--allow" in done.stdout


def test_experts_are_listed_without_the_heavy_libraries(site):
    done = command("experts", "list", site=site)
    assert done.returncode == 0, done.stderr
    assert "dinov2" in done.stdout
    assert "Apache-2.0" in done.stdout
    assert "tove-core 0.1.0" in done.stdout


def test_an_expert_is_shown_without_the_heavy_libraries(site):
    done = command("experts", "show", "dinov2:small", site=site)
    assert done.returncode == 0, done.stderr
    assert '"channels": 384' in done.stdout


def test_an_unknown_expert_ends_in_one_sentence_and_exit_code_one(site):
    done = command("experts", "show", "dinov4", site=site)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no expert named 'dinov4'; did you mean dinov3 or dinov2")
    assert "Traceback" not in done.stderr


def test_predictions_are_scored_and_compared_without_torch(site, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    lines = [{"id": "a", "image": "i0"}, {"id": "b", "image": "i1"}]
    for name, more in (("predictions", {"prediction": "red"}), ("references", {"targets": ["red"], "prompt": "what?"})):
        records = [{**({"id": one["id"]} if name == "predictions" else one), **more} for one in lines]
        (kept / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    done = command("score", str(kept), "--against", str(kept / "predictions.jsonl"), site=site, allowed=("numpy",))
    assert done.returncode == 0, done.stderr
    assert "exact-match: 2 samples" in done.stdout
    # A data set is read without it too.
    (tmp_path / "a.png").write_bytes(b"not looked at")
    right = [{"id": one["id"], "image": "a.png", "question": "what?", "answer": "red"} for one in lines]
    (tmp_path / "right.jsonl").write_text("".join(json.dumps(one) + "\n" for one in right))
    done = command("score", str(kept), "--data", str(tmp_path / "right.jsonl"), site=site, allowed=("numpy",))
    assert done.returncode == 0, done.stderr


def test_looking_at_data_imports_no_training_engine(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("image,text\ndata.csv,a\n")
    code = (
        "import sys\nfrom tove_core.cli.main import main\n"
        f"sys.argv = ['tove', 'data', 'check', 'csv:{tmp_path}/data.csv', '--quick']\n"
        "try: main()\nexcept SystemExit as leaving: code = leaving.code\n"
        "else: code = 0\n"
        "print(code, sorted({'accelerate', 'torch._dynamo', 'transformers'} & set(sys.modules)))\n"
    )
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "TERM": "dumb", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
