from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tove_core import template
from tove_core.errors import ConfigError

Tove = Callable[..., Any]


def test_a_project_is_written_with_its_own_name_everywhere(tove: Tove, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = tove("experts", "new", "depth-2d")
    project = tmp_path / "tove-expert-depth-2d"
    assert "pip install -e tove-expert-depth-2d" in shown.out
    assert "tove experts check depth-2d" in shown.out
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert files == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "src/tove_expert_depth_2d/__init__.py",
        "src/tove_expert_depth_2d/adapter.py",
        "src/tove_expert_depth_2d/hooks.py",
        "tests/test_adapter.py",
        "tests/test_conforms.py",
    }
    text = "".join((project / name).read_text(encoding="utf-8") for name in files)
    assert "template" not in text
    assert 'depth-2d = "tove_expert_depth_2d.hooks"' in text
    # The bare name would be ambiguous as soon as another distribution offers one of the same name.
    assert '@parametrize_with_checks("tove-expert-depth-2d/depth-2d")' in text


def test_the_place_can_be_chosen_and_what_exists_is_left_alone(tmp_path):
    target = tmp_path / "deep" / "mine"
    assert template.write_project("mine", target) == target
    before = (target / "pyproject.toml").read_text()
    with pytest.raises(ConfigError, match=r"mine exists; choose another folder with --out, or remove it"):
        template.write_project("mine", target)
    assert (target / "pyproject.toml").read_text() == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("My_Expert", "such as 'my-expert'"),
        ("", "such as 'depth-any'"),
        ("3d", "such as 'depth-any'"),
        ("../x", "such as 'x'"),
        ("tove-expert-x", "give the expert's alone: 'x'"),
        ("dinov2", "the name of one of tove's own experts"),
        ("clip", "what a model calls its own CLIP"),
    ],
)
def test_names_that_cannot_be_used_are_refused_and_nothing_is_written(name, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        template.write_project(name, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_an_installation_without_the_template_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(template, "_PACKAGE", tmp_path / "tove_core")
    with pytest.raises(ConfigError, match="install tove-core again"):
        template.write_project("mine", tmp_path / "mine")


def unpacked(project: Path, work: Path) -> Path:
    """Build a project's wheel with its own backend and install it, which for pure Python is to unpack it."""
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (built,) = wheel.WheelBuilder(str(project)).build(directory=str(work / "dist"), versions=["standard"])
    zipfile.ZipFile(built).extractall(work / "site")
    return work / "site"


def test_the_wheel_carries_the_template(tmp_path, monkeypatch):
    source = template.template_folder()
    names = [path.relative_to(source) for path in template.template_files(source)]
    site = unpacked(Path(template.__file__).parents[1], tmp_path)
    monkeypatch.setattr(template, "_PACKAGE", site / "tove_core")
    carried = template.template_folder()
    assert carried.is_relative_to(site)
    assert [path.relative_to(carried) for path in template.template_files(carried)] == names
    assert template.write_project("mine", tmp_path / "mine").is_dir()


REPOSITORY = Path(template.__file__).parents[1]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REPOSITORY.glob("plugins/*/pyproject.toml")))
def test_the_wheel_and_the_source_of_a_plugin_carry_the_licence_they_declare(name, tmp_path):
    project = REPOSITORY / "plugins" / name
    sdist = pytest.importorskip("hatchling.builders.sdist")
    carried = list(unpacked(project, tmp_path).glob("*.dist-info/licenses/**/LICENSE*"))
    assert (REPOSITORY / "LICENSE").read_text() in [path.read_text() for path in carried]
    (built,) = sdist.SdistBuilder(str(project)).build(directory=str(tmp_path / "dist"), versions=["standard"])
    with tarfile.open(built) as archive:
        assert {path.name for path in carried} <= {Path(member).name for member in archive.getnames()}


@pytest.mark.parametrize(
    "project", sorted(REPOSITORY.glob("plugins/*/tests/test_conforms.py")), ids=lambda p: p.parts[-3]
)
def test_a_plugins_own_test_asks_for_its_expert_by_the_qualified_name(project):
    (asked,) = re.findall(r'parametrize_with_checks\("([^"]+)"', project.read_text())
    assert asked.partition("/")[0] == project.parts[-3]


@pytest.mark.slow
def test_a_new_project_installs_passes_its_own_tests_and_conforms(tmp_path):
    project = template.write_project("fresh-colours", tmp_path / "project")
    site = unpacked(project, tmp_path)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TOVE_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(site), "TOVE_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=project, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert " passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider")
    shown = run("-c", "from tove_core.cli.main import main; main()", "experts", "check", "fresh-colours")
    assert shown.startswith("fresh-colours  (from tove-expert-fresh-colours 0.1.0)\n")
    assert "29 checks: 22 passed, 7 not applicable" in shown
    assert (site / "tove_expert_fresh_colours-0.1.0.dist-info" / "licenses" / "LICENSE").is_file()
    rival = template.write_project("fresh-colours", tmp_path / "rival")
    text = (rival / "pyproject.toml").read_text().replace('"tove-expert-fresh', '"tove-expert-rival')
    (rival / "pyproject.toml").write_text(text)
    env["PYTHONPATH"] += os.pathsep + str(unpacked(rival, tmp_path / "second"))
    ids = run("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider").splitlines()
    assert any("tove-expert-fresh-colours/fresh-colours-finite" in line for line in ids)
