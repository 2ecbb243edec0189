"""One notion of where configurations and weights live: a local folder, an installed package, or the hub."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path, PurePosixPath

from tove_core.errors import ConfigError

PACKAGE = "package:"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

LEGACY = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "bert-base-cased": "google-bert/bert-base-cased",
    "bert-large-uncased": "google-bert/bert-large-uncased",
    "roberta-base": "FacebookAI/roberta-base",
    "roberta-large": "FacebookAI/roberta-large",
}
"""Hub ids of the models that had no owner once, by the names that old code has for them."""


def here(path: str | Path) -> str:
    """Return the end of a message about a path: the working directory it was looked for in, where it is relative."""
    return "" if Path(path).expanduser().is_absolute() else f" in the working directory {Path.cwd()}"


def misspelt(reference: str) -> str:
    """Return the end of a message about a hub id that nothing is known of: where it looks like a folder's name."""
    parent = Path(reference).parent
    if reference.count("/") != 1 or not parent.is_dir():
        return ""
    return f"; if a folder is meant, {str(parent)!r} holds none of the name {Path(reference).name!r}"


def is_hub_id(reference: str) -> bool:
    """Tell whether a reference has the form of a hub id, `owner/name`."""
    return _HUB_ID.fullmatch(reference) is not None


def resolve_folder(reference: str) -> Path | None:
    """Return the folder that a reference names, or None where it is a hub id.

    Args:
        reference: an existing folder, `package:MODULE/SUB/FOLDER` for a folder inside an installed package, or a hub
            id `owner/name`. A folder of that name in the working directory comes before the hub, as in transformers.

    Raises:
        ConfigError: the folder or package does not exist, or the reference has none of these forms.
    """
    if reference.startswith(PACKAGE):
        module, _, inside = reference.removeprefix(PACKAGE).partition("/")
        folder = package_path(module, inside)
        if not folder.is_dir():
            raise ConfigError(f"{reference!r} names {folder}, which is not a folder; check the name after the package")
        return folder
    folder = Path(reference).expanduser()
    if reference and folder.is_dir():
        return folder
    if folder.is_file():
        raise ConfigError(f"{reference!r} is a file where a folder is wanted; give the folder that holds it")
    if is_hub_id(reference):
        return None
    if reference in LEGACY:
        raise ConfigError(
            f"{reference!r} is neither a folder nor a hub id; hub ids are owner/name, write {LEGACY[reference]!r}"
        )
    raise ConfigError(
        f"{reference!r} is neither a folder nor a hub id{here(reference)}; give a folder, 'package:MODULE/FOLDER' or "
        "'owner/name', such as 'openai-community/gpt2'"
    )


def package_parts(module: str, inside: str) -> tuple[str, ...]:
    """Return the parts of a path inside a package; the package is not looked for.

    Raises:
        ConfigError: `module` is no import name, or `inside` leaves it.
    """
    parts = PurePosixPath(inside).parts
    if not _MODULE.fullmatch(module) or ".." in parts or inside.startswith("/") or "\\" in inside:
        raise ConfigError(f"'{module}/{inside}' is not a path inside a package; write MODULE/SUB/FOLDER without '..'")
    return parts


def package_path(module: str, inside: str) -> Path:
    """Return the path on disk of a file or folder inside an installed package; it need not exist.

    Args:
        module: import name of the package, `a.b`.
        inside: path within it, with forward slashes.

    Raises:
        ConfigError: the package is not installed, does not lie on disk, or `inside` leaves it.
    """
    parts = package_parts(module, inside)
    try:
        root = resources.files(module)
    except (ImportError, TypeError) as error:
        raise ConfigError(f"package {module!r} cannot be imported ({error}); install it or correct the name") from error
    place = root.joinpath(*parts)
    if not isinstance(place, Path):
        raise ConfigError(f"package {module!r} is not a plain folder on disk; install it unzipped")
    return place
