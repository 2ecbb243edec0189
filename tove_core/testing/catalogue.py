"""The list of checks, in the order in which they run: what is declared, the architecture, a module that computes."""

from __future__ import annotations

from tove_core.testing import architecture, built, calls, declared, forward, geometry, imported
from tove_core.testing.definition import Definition

CATALOGUE: tuple[Definition, ...] = (
    declared.spec_valid,
    declared.described,
    declared.license_spdx,
    declared.weights_pinned,
    declared.entry_point_canonical,
    imported.light_import,
    imported.factory_resolves,
    architecture.builds_on_meta,
    architecture.params_exact,
    architecture.flops_close,
    architecture.contract_shapes,
    architecture.contract_nonsquare,
    built.builds_offline,
    built.deterministic,
    built.no_uninitialised,
    built.no_global_state,
    built.roundtrip,
    built.convert_is_pure,
    built.weights_load,
    forward.frozen,
    forward.no_graph,
    forward.input_unchanged,
    forward.all_finite,
    forward.batch_independent,
    forward.bf16_close,
    geometry.grid_follows_image,
    geometry.regions_in_range,
    calls.outputs_unchanged,
    calls.calls_independent,
)
"""Every check; the command line, pytest and the documentation read this one list."""
