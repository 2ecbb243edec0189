"""Read what one plugin offers, and say in one sentence what its author got wrong. No torch."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pluggy
from pydantic import BaseModel, ValidationError

from tove_core import hookspecs, naming, spec
from tove_core.errors import PluginError
from tove_core.spec import API, ExpertSpec, Frozen

_HOOK = "tove_experts"
_OURS = Path(__file__).parent
_KINDS: dict[str, type[BaseModel]] = {
    name: kind for name, kind in vars(spec).items() if isinstance(kind, type) and issubclass(kind, Frozen)
}


def read(load: Callable[[], object], plugin: str) -> list[ExpertSpec]:
    """Return the specs of a plugin, none of them twice.

    Args:
        load: gives the module or object that implements the hook, such as an entry point's `load`.
        plugin: its name in pluggy's manager.

    Raises:
        PluginError: its hook or one of its specs is not what it has to be.
        Exception: whatever importing or running the plugin raises.
    """
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        module = load()
        _refuse_unknown_hooks(manager, module)
        _register(manager, module, plugin)
        given = manager.hook.tove_experts()
        if len(given) != 1:  # pluggy drops an implementation that returns None
            raise PluginError(f"it implements no {_HOOK}() that returns experts; return a list of ExpertSpec")
        specs = _listed(given[0])
    except ValidationError as error:
        raise PluginError(describe(error)) from error
    for one in specs:
        if not isinstance(one, ExpertSpec):
            raise PluginError(f"{_HOOK}() gave {type(one).__name__}, wanted ExpertSpec (contract api {API})")
    names = [one.name for one in specs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PluginError(f"{_HOOK}() offers {', '.join(twice)} twice; give each expert a name of its own")
    return specs


def _listed(given: object) -> list[Any]:
    if isinstance(given, ExpertSpec):  # a model can be iterated over: its fields would be taken for experts
        raise PluginError(f"{_HOOK}() returned the ExpertSpec {given.name!r} itself; return a list: [SPEC]")
    if not isinstance(given, Iterable):
        raise PluginError(f"{_HOOK}() returned {type(given).__name__}; return a list of ExpertSpec")
    return list(given)


def _refuse_unknown_hooks(manager: pluggy.PluginManager, module: object) -> None:
    for name in dir(module):
        options = manager.parse_hookimpl_opts(module, name)
        if options is not None and not options["optionalhook"] and not hasattr(hookspecs, name):
            raise PluginError(f"it implements {name}(), which is no hook of tove; did you mean {_HOOK}()?")


def _register(manager: pluggy.PluginManager, module: object, plugin: str) -> None:
    try:
        manager.register(module, name=plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        told = " ".join(str(error).split())
        raise PluginError(f"its {_HOOK}() does not fit the hook, which takes no arguments ({told})") from error


def describe(error: ValidationError) -> str:
    """Return what is wrong with a spec or a part of one on one line, and where in the plugin's code it was made."""
    problems = [_problem(error.title, problem) for problem in error.errors(include_url=False)]
    return "; ".join(problems) + _place(error)


def _problem(title: str, problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    key, value, said = ".".join([title, *location]), problem["input"], problem["msg"].replace("Value error, ", "")
    if problem["type"] == "extra_forbidden":
        return f"{key}: there is no such field{_suggest(title, location)}"
    if problem["type"] == "missing":
        return f"{key} is missing"
    if not location:  # a part that was made by itself does not know under which name it is to be put
        return f"{title}({_arguments(value)}): {said}"
    if problem["type"] == "string_pattern_mismatch" and isinstance(value, str):
        return f"{key}: {_wanted(problem['ctx']['pattern'], value)}"
    hint = f"; this tove-core knows api {API}, upgrade one of the two" if location == ["api"] else ""
    return f"{key}: {said} (got {value!r:.80}){hint}"


def _wanted(pattern: str, value: str) -> str:
    """Say in words what a text that does not match a pattern of the contract should have been."""
    if pattern == spec.SAFETENSORS_FILE and not value.endswith(".safetensors"):
        return (
            f"{value!r} is no safetensors file, and weights are read from nothing else, never unpickled; convert it "
            "with safetensors.torch.save_file"
        )
    words = {
        spec.NAME: f"give {naming.wanted(value)}",
        spec.IMPORT_PATH: "give 'module:function'",
        spec.REVISION: "give the commit in full, 40 hex digits in lower case",
        spec.SHA256: "give 64 hex digits in lower case",
        spec.SAFETENSORS_FILE: "give a path relative to the repository, package or folder",
    }
    return f"{value!r} cannot be used; {words.get(pattern, f'give a text that matches {pattern}')}"


def _suggest(title: str, location: list[str]) -> str:
    kind = _KINDS.get(title) if len(location) == 1 else None
    close = difflib.get_close_matches(location[-1], list(kind.model_fields), n=1) if kind else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _arguments(value: object) -> str:
    return ", ".join(f"{key}={item!r:.40}" for key, item in value.items()) if isinstance(value, Mapping) else "..."


def _place(error: ValidationError) -> str:
    """Return " (hooks.py, line 12)": the innermost frame that is neither tove's nor pydantic's; "" for none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_plugins(frame.filename)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _is_plugins(file: str) -> bool:
    parents = Path(file).parents
    return _OURS not in parents and not {"pydantic", "pluggy"} & {parent.name for parent in parents}
