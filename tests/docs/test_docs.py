from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import runpy
import shlex
import sys
import tomllib
from functools import cache
from math import prod
from pathlib import Path
from types import ModuleType

import pytest
import typer
from PIL import Image
from safetensors import safe_open

from tove_core import environment, errors, in_process, plugins
from tove_core.cli.main import app
from tove_core.config import RunConfig
from tove_core.settings import read_config
from tove_core.training.run import train
from tove_experts.hooks import tove_experts

ROOT = Path(__file__).parents[2]
RUN = (
    "docs/tutorials/*.md",
    "docs/reference/data.md",
    "docs/reference/dense-experts.md",
    "docs/reference/evaluation.md",
    "docs/reference/feature-cache.md",
    "docs/reference/kernels.md",
    "docs/reference/placement.md",
    "docs/reference/plan.md",
    "docs/reference/plugins.md",
    "docs/reference/python.md",
    "docs/reference/serving.md",
)
TUTORIALS = sorted(str(path.relative_to(ROOT)) for pattern in RUN for path in ROOT.glob(pattern))
EVERYWHERE = {"--help"}


@cache
def generator():
    found = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@cache
def parser():
    return typer.main.get_command(app)


def install(project: Path, site: Path) -> None:
    """Do what pip would for a pure Python project: metadata with its entry points, beside its sources."""
    described = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{described['name'].replace('-', '_')}-{described['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
    )
    groups = described["entry-points"]
    lines = [f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in entries.items()) for group, entries in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def set_up(page, workplace: Path, monkeypatch) -> None:
    """Write the projects of a page, with the command it names and from its blocks, and install them."""
    shown = [line for b in page.blocks if b.language == "console" for line in b.text.splitlines()]
    for line in shown:
        if line.startswith("$ tove experts new "):
            parser()(shlex.split(line)[2:], standalone_mode=False)
    for block in page.blocks:
        if block.marker.startswith("file "):
            place, _, as_written = block.marker.removeprefix("file ").partition(", ")
            path = workplace / place
            if as_written:
                assert path.read_text(encoding="utf-8") == block.text, f"{page.path}:{block.line} is not {place}"
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
    for project in {path.parent for path in workplace.glob("*/pyproject.toml")}:
        install(project, workplace / "site")
        monkeypatch.syspath_prepend(str(project / "src"))
        monkeypatch.syspath_prepend(str(workplace / "site"))
    plugins.registry.cache_clear()


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a photograph in it, as the working directory; installed experts are discovered afresh."""
    monkeypatch.chdir(tmp_path)
    Image.effect_mandelbrot((53, 41), (-2, -1, 1, 1), 30).convert("RGB").save("photo.jpg")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = set(sys.modules)
    plugins.registry.cache_clear()
    yield tmp_path
    in_process.REGISTERED.clear()
    plugins.registry.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("tove_expert_"):
            del sys.modules[name]


@pytest.mark.parametrize("name", TUTORIALS)
@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_the_python_of_a_page_runs_and_prints_what_it_says(name, pages, workplace, monkeypatch, capsys):
    set_up(pages[name], workplace, monkeypatch)
    capsys.readouterr()
    # A module, as a notebook's is: its functions are found by the path `page:NAME`.
    page = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", page)
    space, printed = page.__dict__, ""
    for block in pages[name].blocks:
        if block.marker == "output":
            assert printed == block.text, f"{name}:{block.line}"
        elif block.language == "python" and not block.marker.startswith("file "):
            code = compile(block.text, f"{name}:{block.line}", "exec")
            if not block.marker.startswith("skip, "):
                exec(code, space)
                printed = capsys.readouterr().out


def test_markers_are_known_and_skipping_has_a_reason(pages):
    for name, page in pages.items():
        for block in page.blocks:
            known = block.marker in ("", "output") or block.marker.startswith(("skip, ", "file "))
            assert known, f"{name}:{block.line} {block.marker}"
        marked = sum(bool(block.marker) for block in page.blocks)
        assert page.prose.count("\n<!-- test:") == 0, f"{name} has a marker that stands above no block"
        assert name != "docs/tutorials/first-expert.md" or marked == 5


def test_the_list_and_the_count_shown_in_the_first_expert_page_are_what_the_commands_print(
    pages, workplace, monkeypatch, capsys
):
    page = pages["docs/tutorials/first-expert.md"]
    set_up(page, workplace, monkeypatch)
    capsys.readouterr()
    parser()(["experts", "list"], standalone_mode=False)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    (shown,) = [b.text.split() for b in page.blocks if b.language == "text" and b.text.startswith("colour ")]
    assert shown in printed
    parser()(["experts", "check", "colour"], standalone_mode=False)
    (count,) = [b.text.strip() for b in page.blocks if b.language == "text" and " checks: " in b.text]
    assert capsys.readouterr().out.splitlines()[-1].partition("  (")[0] == count


def known_options(words: list[str]) -> tuple[set[str], list[str]] | None:
    """Return the options of the command that words begin with and what follows its name; None for no command."""
    command = parser()
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-"):
            break
        if words[0] not in command.commands:
            return None
        command, words = command.commands[words[0]], words[1:]
    return {spelling for p in command.params for spelling in (*p.opts, *p.secondary_opts)}, words


def command_lines(pages):
    for name, page in pages.items():
        for line in page.commands:
            for part in line.split("|") if "COMMAND" not in line else ():
                yield name, part.strip()


def test_every_command_in_the_docs_exists_with_its_options(pages):
    lines = list(command_lines(pages))
    assert len(lines) > 20
    for name, line in lines:
        found = known_options(shlex.split(line)[1:])
        assert found is not None, f"{name}: there is no command in {line!r}"
        used = {word for word in found[1] if word.startswith("--")}
        assert used <= found[0] | EVERYWHERE, f"{name}: {line!r}"


def test_required_options_are_given_in_console_blocks(pages):
    commands = dict(generator().commands())
    for name, page in pages.items():
        for block in page.blocks:
            for line in block.text.splitlines() if block.language == "console" else ():
                words = shlex.split(line.removeprefix("$ "))
                command = commands.get(" ".join(words[:2])) or commands.get(" ".join(words[:3]))
                required = [p.opts[0] for p in command.params if p.required and p.opts[0][0] == "-"] if command else []
                assert set(required) <= set(words), f"{name}: {line}"


@pytest.mark.parametrize("name", generator().PAGES)
def test_generated_pages_are_what_the_code_says(name):
    text = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert text == generator().PAGES[name](), "run: python docs/generate.py"


def test_what_the_pages_import_is_public(pages):
    listed = runpy.run_path(str(ROOT / "docs" / "python_page.py"))["public"]()
    whole = ("tove_core", "tove_core.config", "tove_core.errors", "tove_core.spec", "tove_core.testing")
    private = {}
    for name, page in pages.items():
        for block in page.blocks:
            for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tove_core"):
                    used = {f"{node.module}.{one.name}" for one in node.names} if node.module not in whole else set()
                    private |= dict.fromkeys(used - listed, f"{name}:{block.line}")
    assert private == {}


def test_there_is_a_page_for_every_built_in_expert_and_no_other():
    found = {f"experts/{path.name}" for path in (ROOT / "docs/reference/experts").glob("*.md")}
    assert found == {name for name in generator().PAGES if name.startswith("experts/")}
    assert {f"experts/{spec.name}.md" for spec in tove_experts()} == found - {"experts/index.md"}


def test_the_expert_a_page_builds_is_that_of_the_page(pages):
    for spec in tove_experts():
        page = pages[f"docs/reference/experts/{spec.name}.md"]
        (code,) = [block.text for block in page.blocks if block.language == "python"]
        (asked,) = re.findall(r'experts=\["(.*)"\]', code)
        assert asked.partition(":")[0] == spec.name
        assert bool(asked.partition(":")[2]) == (spec.family is not None)
        for variant in spec.variants:
            assert f"| `{spec.name}:{variant}` |" in page.text


def test_every_field_has_a_meaning():
    made = generator()
    bare = [
        f"{m.__name__}.{n}" for m in (*made.RUN, *made.SPEC) for n, f in m.model_fields.items() if not f.description
    ]
    assert bare == []


def test_links_between_pages_resolve(pages):
    for name, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            path = (page.path.parent / target).resolve() if target else page.path
            assert path.is_file(), f"{name}: {link}"
            if anchor:
                assert anchor in pages[str(path.relative_to(ROOT))].anchors, f"{name}: {link}"


def test_every_page_is_reachable_from_the_index(pages):
    known = {page.path: page for page in pages.values()}
    reached, fresh = set(), [ROOT / "docs/index.md"]
    while fresh:
        path = fresh.pop()
        reached.add(path)
        found = {(path.parent / link.partition("#")[0]).resolve() for link in known[path].links}
        fresh += (found & known.keys()) - reached - set(fresh)
    assert {page.path for name, page in pages.items() if name.startswith("docs/")} <= reached


def test_every_error_class_is_explained(pages):
    classes = {n for n, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.ToveError)}
    text = pages["docs/reference/errors.md"].text
    assert {name for name in classes if f"| `{name}` |" not in text} == set()


def test_every_variable_is_explained(pages):
    given = [value for name, value in vars(environment).items() if name.isupper() and not name.startswith("_")]
    names = {name for value in given for name in ([value] if isinstance(value, str) else value)}
    assert names >= {"TOVE_HOME", "HF_HUB_OFFLINE", "TOVE_TRACEBACK"}
    text = pages["docs/reference/environment.md"].text
    assert {name for name in names if f"| `{name}` |" not in text} == set()


def test_the_parameters_of_the_embedded_world_are_those_of_its_files(pages):
    files = {"CLIP": "clip/open_clip_model", "language model": "lm/model"}
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+)", pages["docs/reference/world.md"].text, re.MULTILINE)
    stated = {name.strip("`"): int(count.replace(",", "")) for names, count in rows for name in names.split(", ")}
    assets, shown = ROOT / "tove_core/demo/assets", {}
    for name in (*files, *(path.stem for path in assets.glob("world-*.safetensors"))):
        with safe_open(assets / f"{files.get(name, name)}.safetensors", "pt") as file:
            trained = [key for key in file.keys() if "running_" not in key and "num_batches" not in key]  # noqa: SIM118
            shown[name] = sum(prod(file.get_slice(key).get_shape()) for key in trained)
    assert len(shown) == 7 and shown.items() <= stated.items()


def test_yaml_of_the_docs_is_a_valid_run(pages, tmp_path):
    shown = [b.text for page in pages.values() for b in page.blocks if b.language == "yaml"]
    recipes = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "recipes").glob("*.yaml")]
    assert shown and recipes
    for text in [*shown, *recipes]:
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        assert read_config(RunConfig, tmp_path / "run.yaml").model.experts


@pytest.mark.shared_data
def test_the_easy_vqa_recipe_trains_and_answers(shared_data, tmp_path):
    data = shared_data("easy-vqa")
    small = ["data.limit=24", "training.steps=2", "training.batch_size=8", f"output={tmp_path / 'run'}"]
    config = read_config(RunConfig, ROOT / "docs/recipes/easy-vqa.yaml", [f"data.path={data}", *small])
    model = train(config, quiet=True)
    assert len(model.answer(Image.new("RGB", (64, 64), "red"), "what color is the shape?")) == 1
    assert (tmp_path / "run" / "checkpoint" / "tove.json").is_file()
