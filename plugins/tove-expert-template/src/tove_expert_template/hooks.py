"""Offers the expert. Imported whenever experts are listed, so nothing heavy may be imported here."""

from tove_core import Cost, ExpertSpec, Grid, Input, hookimpl

SPEC = ExpertSpec(
    api=1,
    name="template",
    summary="Mean and spread of each colour in cells of 16x16 pixels.",
    factory="tove_expert_template.adapter:build",
    input=Input(size=(224, 224), patch=16, dynamic=True),
    outputs={"statistics": Grid(channels=6, stride=16, norm="fixed")},
    cost=Cost(params=0, flops=0),
    options={"cell": 16},
)


@hookimpl
def tove_experts() -> list[ExpertSpec]:
    """Return the experts of this plugin."""
    return [SPEC]
