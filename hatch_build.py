"""Put the plugin template into the wheel: `tove experts new` copies it, and the repository has one copy only."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TemplateHook(BuildHookInterface):
    """Not for editable installs: a second `tove_core` folder in site-packages would hide the real one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the template's folder to a standard wheel."""
        if version == "standard":
            build_data["force_include"]["plugins/tove-expert-template"] = "tove_core/_template/tove-expert-template"
