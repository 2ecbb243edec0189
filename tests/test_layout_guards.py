from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("tove_core", "tove_experts", "kernels")
LIMIT = 400


def python(code: str, cwd: Path, *path: Path) -> str:
    """Run code as a script's own interpreter would, the working directory first on the path."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_the_kernels_folder_is_no_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "tests" / "kernels").exists()
    assert (ROOT / "kernels" / "README.md").is_file(), "it says why"


def test_tests_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []
    assert not (ROOT / "conftest.py").exists()
    assert not (ROOT / "__init__.py").exists()


def test_kernels_is_not_importable_from_elsewhere():
    where = python(
        "from importlib.util import find_spec; found = find_spec('kernels'); print(found and found.origin)", Path("/")
    )
    assert where == "None" or "site-packages" in where


AVAILABLE = "from transformers.utils.import_utils import is_kernels_available; print(is_kernels_available())"


@pytest.mark.slow
def test_transformers_sees_the_same_kernels_package_from_the_repository_root():
    from_root = python("import transformers.integrations.hub_kernels; " + AVAILABLE, ROOT, ROOT)
    assert from_root == python(AVAILABLE, Path("/"))


def test_the_wheel_holds_three_packages_and_nothing_else(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(built).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"tove_core", "tove_experts", "tove_kernels"}
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert "tove_kernels/activation_mix/reference.py" in names
    assert not [name for name in names if "plugins/" in name or "__pycache__" in name]
    assert "tove_core/_template/tove-expert-template/pyproject.toml" in names, "what `tove experts new` copies"
    assert {f"{top}/py.typed" for top in tops} <= set(names), "without it type checkers ignore the annotations"


def test_the_sdist_holds_what_its_own_tests_and_links_need(tmp_path):
    sdist = pytest.importorskip("hatchling.builders.sdist")
    (built,) = sdist.SdistBuilder(str(ROOT)).build(directory=str(tmp_path))
    with tarfile.open(built) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    wanted = {Path(link).parts[0] for link in linked} | {"CONTRIBUTING.md", "Makefile", "constraints.txt", "LICENSE"}
    assert wanted - tops == set()


def test_an_editable_install_keeps_the_root_off_the_path(tmp_path):
    wheel = pytest.importorskip("hatchling.builders.wheel")
    pytest.importorskip("editables")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["editable"])
    with zipfile.ZipFile(built) as archive:
        lines = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".pth")]
    assert lines, "an editable wheel has a .pth file"
    assert str(ROOT) not in " ".join(lines).split()


PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_plugin_is_a_project_of_its_own(folder):
    described = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert described["name"] == folder.name
    assert any(need.startswith("tove-core>=") for need in described["dependencies"])
    assert list(described["entry-points"]["tove"])
    package = folder / "src" / folder.name.replace("-", "_")
    assert (package / "__init__.py").is_file() and (folder / "README.md").is_file()
    assert list((folder / "tests").glob("test_*.py")) and not (folder / "tests" / "__init__.py").exists()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


# One test for all files: a test for each would cost more than what it looks at.
def test_no_file_is_long():
    found = sources(*SHIPPED, "plugins", "tests")
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in found}
    assert len(lines) > 100
    assert {path: count for path, count in lines.items() if count > LIMIT} == {}


def test_shipped_modules_say_what_they_are_for():
    found = sources(*SHIPPED)
    assert [str(path.relative_to(ROOT)) for path in found if not ast.get_docstring(parsed(path))] == []


def test_shipped_modules_never_assert():
    """Asserts vanish under python -O; an error of tove_core.errors does not."""
    nodes = ((path, node) for path in sources(*SHIPPED) for node in ast.walk(parsed(path)))
    found = [f"{path.relative_to(ROOT)}:{node.lineno}" for path, node in nodes if isinstance(node, ast.Assert)]
    assert found == []


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_kernels_know_nothing_of_the_packages_above_them():
    lower = {str(path): imported(path) & {"tove_core", "tove_experts"} for path in sources("kernels")}
    assert not {path: names for path, names in lower.items() if names}


def test_nothing_shipped_imports_a_package_named_kernels():
    assert not [path for path in sources(*SHIPPED) if "kernels" in imported(path)]
