"""Imports run downwards: a room of the house never imports a higher one (the table of CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CORE = Path(__file__).parents[1] / "tove_core"

FLOORS = {
    "cli app demo report testing __main__": 5,
    "contribution data evaluation export merging planning publishing selection training": 4,
    "builder calibration checkpoint growth model restorable resident run_folder seeing selecting": 3,
    "fusion language tower": 2,
    "hub": 1,
}
"""Which floor each folder and file of tove_core is on; those not named are on the ground floor, under all others."""

LATE = {
    # Methods of a model, which is the public face: what they name is imported when they are called.
    ("model.py", "tove_core.publishing.push"),
    # A checkpoint that holds everything has its CLIP in the layout that other libraries read.
    ("checkpoint.py", "tove_core.export.hf_dir"),
    ("checkpoint.py", "tove_core.export.open_clip_dir"),
}
"""Imports inside functions that go upwards, each with its reason."""

FLOOR_OF = {name: floor for names, floor in FLOORS.items() for name in names.split()}


def room(module: str) -> str:
    """The folder or file of tove_core that a dotted name is in."""
    return [*module.split("."), "__init__"][1]


def imports(tree: ast.AST, late: bool = False) -> Iterator[tuple[str, bool]]:
    """What is imported when code runs, and whether inside a function; imports for type checkers are none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = (
                [f"{node.module}.{name.name}" for name in node.names] if node.module == "tove_core" else [node.module]
            )
            yield from ((name, late) for name in names)
        elif isinstance(node, ast.Import):
            yield from ((name.name, late) for name in node.names)
        yield from imports(node, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def upward() -> Iterator[tuple[str, str, bool]]:
    """Every import of tove_core that goes upwards: the file, what it imports, whether inside a function."""
    for path in sorted(CORE.rglob("*.py")):
        file = path.relative_to(CORE)
        here = FLOOR_OF.get(file.parts[0].removesuffix(".py"), 0)
        for module, late in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if module.startswith("tove_core.") and FLOOR_OF.get(room(module), 0) > here:
                yield str(file), module, late


def test_every_room_that_has_a_floor_exists():
    there = {path.name.removesuffix(".py") for path in CORE.iterdir()}
    assert FLOOR_OF.keys() - there == set()


def test_no_import_goes_upwards_but_those_inside_functions_that_have_a_reason():
    found = {(file, module) for file, module, late in upward() if late}
    assert [(file, module) for file, module, late in upward() if not late] == []
    assert found == LATE, "an exception that nobody needs any more goes too"


def test_fusion_language_and_tower_do_not_know_each_other():
    for name in ("fusion", "language", "tower"):
        others = {other for other, floor in FLOOR_OF.items() if floor == FLOOR_OF[name]} - {name}
        for path in sorted((CORE / name).rglob("*.py")):
            known = {
                room(module) for module, _ in imports(ast.parse(path.read_text())) if module.startswith("tove_core")
            }
            assert known & others == set(), path


def test_kernels_know_nothing_of_the_core_and_experts_only_its_ground_floor_and_the_hub():
    for folder, may in ((CORE.parent / "kernels" / "tove_kernels", None), (CORE.parent / "tove_experts", 1)):
        files = sorted(folder.rglob("*.py"))
        assert files
        for path in files:
            known = [name for name, _ in imports(ast.parse(path.read_text())) if name.startswith("tove_core")]
            high = [name for name in known if may is None or FLOOR_OF.get(room(name), 0) > may]
            assert high == [], path
