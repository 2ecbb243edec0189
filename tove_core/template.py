"""Writes a new plugin from the template: plugins/tove-expert-template, copied with its name replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tove_core import naming, plugins
from tove_core.errors import ConfigError

_WORD = "template"
_PROJECT = f"tove-expert-{_WORD}"
_PACKAGE = Path(__file__).parent


def template_folder() -> Path:
    """Return the template's folder: inside the installed package, or in the repository it is installed from.

    Raises:
        ConfigError: neither is there.
    """
    places = (_PACKAGE / "_template" / _PROJECT, _PACKAGE.parent / "plugins" / _PROJECT)
    for place in places:
        if (place / "pyproject.toml").is_file():
            return place
    raise ConfigError(f"the plugin template is not in {places[0]}; install tove-core again")


def template_files(folder: Path) -> Iterator[Path]:
    """Yield the template's own files, in order; not what Python, pytest or a build left beside them."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith((".", "__pycache__")) or part == "dist" for part in parts):
            yield path


def write_project(name: str, out: Path | None = None) -> Path:
    """Write a plugin that offers one small expert called `name`, and return its folder.

    Args:
        name: lower-case words joined by hyphens.
        out: the new project's folder; None: `tove-expert-NAME` in the working directory.

    Raises:
        ConfigError: the name cannot be used, or the folder exists.
    """
    _check_name(name)
    target = out if out is not None else Path(f"tove-expert-{name}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists; choose another folder with --out, or remove it")
    source = template_folder()
    for path in template_files(source):
        written = target / _named(str(path.relative_to(source)), name)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(_named(path.read_text(encoding="utf-8"), name), encoding="utf-8")
    return target


def _named(text: str, name: str) -> str:
    """Replace the template's name: its package, its distribution, and the expert itself."""
    text = text.replace(f"tove_expert_{_WORD}", f"tove_expert_{name.replace('-', '_')}")
    return text.replace(_PROJECT, f"tove-expert-{name}").replace(_WORD, name)


def _check_name(name: str) -> None:
    if name.startswith("tove-expert-"):
        raise ConfigError(
            f"{name!r} is a project's name; give the expert's alone: {name.removeprefix('tove-expert-')!r}"
        )
    if not naming.NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name for an expert; give {naming.wanted(name)}")
    if name == naming.CLIP:
        raise ConfigError(f"{name!r} is what a model calls its own CLIP; choose another name for the expert")
    if any(o.spec.name == name and o.source.distribution == plugins.OWN for o in plugins.registry().offers):
        raise ConfigError(f"{name!r} is the name of one of tove's own experts; choose another")
