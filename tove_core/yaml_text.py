"""The one place where YAML that users write is read: safely, and refusing what YAML would drop silently. No torch."""

from __future__ import annotations

from typing import Any

import yaml

from tove_core.errors import ConfigError


def parse_yaml(text: str, where: str, cure: str) -> Any:
    """Return what a YAML document says, plain types only.

    Args:
        where: what the text is, in front of what is wrong with it.
        cure: what to do where it is not YAML.

    Raises:
        ConfigError: it is not YAML, or a mapping in it has a key twice, of which YAML would keep the last.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_twice(node, (), where, set())
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        # A ValueError is a number or a date that looks like one and is none, 2025-02-30.
        why = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ConfigError(f"{where} is not YAML: {why}; {cure}") from error
    finally:
        loader.dispose()


def _refuse_twice(node: yaml.Node, path: tuple[str, ...], where: str, seen: set[int]) -> None:
    """Refuse keys that come twice in a mapping, here or below; before merge keys (`<<`) are resolved.

    Args:
        path: of keys that lead here.
        seen: nodes that were looked at: an alias leads to one again, even to one around it.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _refuse_twice(item, (*path, str(number)), where, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        own = path
        if isinstance(key, yaml.ScalarNode):
            own, line = (*path, key.value), key.start_mark.line + 1
            if (first := lines.get((key.tag, key.value))) is not None:
                places = f"lines {first} and {line}" if line != first else f"line {line}"
                raise ConfigError(f"{where} gives {'.'.join(own)} twice, on {places}; put what both say under one key")
            lines[key.tag, key.value] = line
        _refuse_twice(value, own, where, seen)
