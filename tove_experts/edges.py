"""Edges without a network: Sobel's gradients, or Canny's thin lines. No weights, so nothing is downloaded.

The paper's edge expert, DexiNed, is in no maintained library; these classical operators take its place.
`canny` needs kornia: `pip install 'tove-core[classical]'`.
"""

from __future__ import annotations

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Variant

EDGES = ExpertSpec(
    api=1,
    name="edges",
    summary="Edge strength and direction (Sobel) or thin edges (Canny), no weights.",
    factory="tove_experts.adapters.edges:build",
    input=Input(size=(384, 384), dynamic=True),
    outputs={"edges": Grid(channels=3, stride=1, norm="fixed", fold=4)},
    cost=Cost(params=0),
    variants={
        "sobel": Variant(
            summary="Edge strength and direction by Sobel's operator.",
            options={"method": "sobel"},
        ),
        "canny": Variant(
            summary="Thin edges by Canny's operator, through kornia.",
            outputs={"edges": Grid(channels=2, stride=1, norm="fixed", fold=4)},
            options={"method": "canny", "low": 0.1, "high": 0.2},
        ),
    },
    default="sobel",
    tiny={},
    tiny_input=Input(size=(48, 48), dynamic=True),
    homepage="https://kornia.readthedocs.io",
    citation="Canny, A Computational Approach to Edge Detection, 1986",
)
