"""Read configurations: YAML files, `--set a.b=v` overrides, and one line per problem. No torch."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tove_core.errors import ConfigError
from tove_core.folders import write_file
from tove_core.yaml_text import parse_yaml

T = TypeVar("T", bound=BaseModel)
_FORM = re.compile(r"bool|str|int|float|constrained-\w+|[a-z-]+\[.*\]", re.DOTALL)
"""How pydantic calls one of the forms that a value may have, behind its key: `training.cache.bool`."""


def read_config(kind: type[T], path: Path | None, overrides: Sequence[str] = ()) -> T:
    """Read a configuration of the given kind from a YAML file (None: all defaults) and apply overrides.

    Args:
        overrides: `a.b=value`, the value in YAML; list items by index, `experts.1.dtype=bfloat16`.

    Raises:
        ConfigError: the file is missing, not YAML or gives a key twice, or values do not fit; one line per problem,
            naming the key.
    """
    data: Any = {}
    if path is not None and path.is_dir():
        raise ConfigError(
            f"{path} is a folder, and the path of a YAML file is wanted; of a run it is {path / 'config.yaml'}"
        )
    if path is not None:
        try:
            data = parse_yaml(path.read_text(encoding="utf-8"), str(path), "repair the file")
        except FileNotFoundError:
            raise ConfigError(f"there is no configuration file {str(path)!r}; give the path of a YAML file") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path} is not YAML: {error}; repair the file") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}); give the path of a YAML file") from error
    if data is None:  # an empty file; other empty values are mistakes
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}; wanted a mapping of keys to values")
    for override in overrides:
        _apply(data, override)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, kind)) from error


def write_config(config: BaseModel, path: Path) -> None:
    """Write a resolved configuration as YAML that `read_config` reads back; whole, or what was there stays.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_file(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def describe(error: ValidationError, kind: type[BaseModel] | None = None) -> str:
    """Return one line per problem of a validation error, `key: what is wrong`.

    Args:
        kind: what was to be read. The key of one that says its `section`, as parts of a model do, begins with that.
    """
    said: dict[str, list[tuple[str, str]]] = {}
    section = [word] if (word := getattr(kind, "section", None)) else []
    for problem in error.errors(include_url=False):
        key = ".".join([*section, *_named(problem["loc"])]) or error.title
        if problem["type"] == "extra_forbidden":
            told = f"there is no such key{_suggest(kind, problem['loc'])}", ""
        else:
            told = _said(problem["type"], problem["msg"], problem["input"])
        if told not in said.setdefault(key, []):
            said[key].append(told)
    return "\n".join(f"{key}: {_either(told)}" for key, told in said.items())


def _named(location: tuple[int | str, ...]) -> Iterator[str]:
    """Yield the parts of a key, without pydantic's names of the forms that a value may have."""
    return (str(part) for part in location if isinstance(part, int) or not _FORM.fullmatch(part))


def _either(told: Sequence[tuple[str, str]]) -> str:
    """Return what was wanted in any of the forms that a value may have, and then, once, what was given."""
    rest = list(dict.fromkeys(rest for _, rest in told if rest))
    return "; or ".join(wanted for wanted, _ in told) + max(rest, key=len, default="")


def _said(kind: str, message: str, given: Any) -> tuple[str, str]:
    """Return what is wrong with a value, in tove's words where pydantic's are about Python, and what was given."""
    got = f" (got {_short(given)})"
    if kind == "value_error":  # one of tove's own, which name what was given
        return message.removeprefix("Value error, "), ""
    if kind == "missing":
        return "is missing; give it", ""
    if kind == "literal_error":
        choices = message.removeprefix("Input should be ")
        nearest = _nearest(given, re.findall("'([^']*)'", choices))
        return f"there is no {_short(given)}; choose {choices}{nearest}", ""
    if kind == "path_type" and (given is None or isinstance(given, (list, dict))):
        return "wanted a path", got
    if kind in ("string_type", "path_type") and given is not None:
        written = yaml.safe_dump(given, default_flow_style=True).splitlines()[0].replace(": null", "")
        return (
            "wanted text",
            f"{got}; YAML takes it for something else unless it stands in quotes, which a shell takes away where there "
            f"are no others around them: \"'{_short(written, quoted=False)}'\"",
        )
    if kind in ("tuple_type", "list_type"):
        example = f", such as [{given}]" if isinstance(given, str) else ""
        return f"wanted a list{example}", got
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return "wanted a mapping of keys to values", got
    return message.replace("Input should", "it should", 1), got


def _short(value: Any, most: int = 80, *, quoted: bool = True) -> str:
    text = repr(value) if quoted else str(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _nearest(given: Any, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, choices, n=1) if isinstance(given, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _suggest(kind: type[BaseModel] | None, location: tuple[int | str, ...]) -> str:
    for part in location[:-1]:
        if isinstance(part, int):  # an item of a list, whose kind the list's annotation gave
            continue
        field = kind.model_fields.get(part) if kind else None
        kind = _model_in(field.annotation) if field else None
    return _nearest(str(location[-1]), list(kind.model_fields)) if kind else ""


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the one model in an annotation such as `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [model for part in get_args(annotation) if (model := _model_in(part))]
    return found[0] if len(found) == 1 else None


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"cannot read override {override!r}; wanted key.subkey=value")
    *parents, last = path.strip().split(".")
    place: Any = data
    for part in parents:
        if isinstance(place, dict) and place.get(part) is None:
            place[part] = {}
        place = _step(place, part, override)
    value = parse_yaml(text, f"the value of override {override!r}", "quote it")
    if isinstance(place, list):
        _step(place, last, override)
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"override {override!r} goes into a {type(place).__name__}, which has no keys")


def _step(place: Any, part: str, override: str) -> Any:
    try:
        return place[int(part)] if isinstance(place, list) else place[part]
    except (ValueError, IndexError, KeyError, TypeError):
        raise ConfigError(f"override {override!r}: there is no {part!r} at that place") from None
