"""Offers the expert `fastestdet`. Imported whenever experts are listed, so nothing heavy may be imported here.

Weights: `weights/weight_AP05:0.253207_280-epoch.pth` of github.com/dog-qiuqiu/FastestDet at commit
50473cd155cb088aa4a99e64ff6a4b3c24fa07e1 (BSD-3-Clause, copyright (c) 2022 xuehao.ma), converted by
`scripts/convert.py`. Its name states its AP at an overlap of 0.5 on COCO: 0.253.
"""

from __future__ import annotations

from tove_core import Cost, ExpertSpec, Input, Regions, Weights, hookimpl

FASTESTDET = ExpertSpec(
    api=1,
    name="fastestdet",
    summary="FastestDet: boxes of COCO's 80 categories, labels as text, 0.24M.",
    factory="tove_expert_fastestdet.adapter:build",
    # 352x352, values from 0 to 1: `configs/coco.yaml` and `test.py` of the repository. The stages halve it five times.
    input=Input(size=(352, 352), patch=32, interpolation="bilinear", dynamic=True),
    outputs={"objects": Regions(limit=50, text=True)},
    weights=Weights(
        package="tove_expert_fastestdet",
        file="fastestdet-coco.safetensors",
        sha256="c8c37224647fa598feb062ed1f2f042c455fdb148140b5f9e5b062cb1dff5c62",
        size=1053328,
        license="BSD-3-Clause",
        license_url="https://github.com/dog-qiuqiu/FastestDet/blob/50473cd155cb088aa4a99e64ff6a4b3c24fa07e1/LICENSE.md",
        commercial=True,
    ),
    cost=Cost(params=244_490, flops=242_983_488),
    options={"threshold": 0.25, "overlap": 0.45},
    # With random weights nothing is as sure as 0.25, and boxes overlap so alike that rounding decides which is dropped.
    tiny={"threshold": 0.0, "overlap": 1.0},
    homepage="https://github.com/dog-qiuqiu/FastestDet",
)


@hookimpl
def tove_experts() -> list[ExpertSpec]:
    """Return the experts of this plugin."""
    return [FASTESTDET]
