"""The row of the fusion: computed from the widths of what it fuses."""

from __future__ import annotations

from tove_core.config import FusionConfig
from tove_core.fusion.align import aligned_width
from tove_core.fusion.size import fusion_parameters, projector_hidden
from tove_core.planning.figures import NOTHING, Figure, Part
from tove_core.spec import ExpertSpec
from tove_core.tower.base import Tower
from tove_core.tower.text import TextVectors

FLOAT32 = 4


def fusion_part(
    config: FusionConfig, tower: Tower | None, experts: dict[str, ExpertSpec], batch: int, *, training: bool
) -> Part | None:
    """Return the row of the fusion, with the features it takes in; None where there is nothing to fuse.

    Raises:
        ConfigError: the configured size leaves no room for a projector, or an expert gives text and CLIP reads none.
    """
    if not experts and config.kind != "clip-mlp":
        return None
    if tower is None:
        why = Figure.unknown("it depends on CLIP, which is not known")
        return Part("fusion", config.kind, why, NOTHING, why, why, why, stored=False)
    texts = TextVectors(tower)
    widths = [aligned_width(spec, texts) for spec in experts.values()]
    params = fusion_parameters(config, tower.width, widths)
    hidden = projector_hidden(config, tower.width, widths)
    # v, v' and the residual; each expert's features and, in gate and uniform, its hidden activations.
    layers = max(len(widths), 1) if config.kind in ("gate", "uniform") else 1
    channels = 3 * tower.width + sum(widths) + layers * hidden * (2 if training else 1)
    return Part(
        part="fusion",
        name=config.kind,
        params=Figure(params, "computed"),
        download=NOTHING,
        weights=Figure(FLOAT32 * params, "in float32"),
        activations=Figure.about(FLOAT32 * batch * tower.tokens * channels, "features and hidden layer, in float32"),
        flops=Figure.about(2 * tower.tokens * params, "2 x tokens x parameters"),
        training=Figure.about(3 * FLOAT32 * params, "gradient and two moments of AdamW") if training else NOTHING,
        stored=False,
    )
