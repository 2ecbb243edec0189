"""Any backbone of timm, by timm's own name: `timm:resnet50.a1_in1k`. Without a tag, timm's default weights are meant.

Everything about it is what timm declares (repository, licence, preprocessing) or what the built architecture shows
(channels, stride, cost). The spec itself describes ResNet-18.
"""

from __future__ import annotations

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Weights
from tove_experts.pixels import IMAGENET
from tove_experts.timm_variants import BUILD, CONVERT

TIMM = ExpertSpec(
    api=1,
    name="timm",
    summary="Any backbone of timm by timm's name, such as timm:resnet50.a1_in1k.",
    factory=BUILD,
    convert=CONVERT,
    family="tove_experts.adapters.timm_family:member",
    input=Input(size=(224, 224), patch=32, dynamic=True, **IMAGENET),
    outputs={"patches": Grid(channels=512, stride=32)},
    weights=Weights(repo="timm/resnet18.a1_in1k", license="Apache-2.0", commercial=True),
    cost=Cost(params=11_176_512, flops=3_627_122_688),
    options={"architecture": "resnet18.a1_in1k"},
    tiny={"arguments": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 40)}},
    tiny_input=Input(size=(96, 96), patch=32, dynamic=True, **IMAGENET),
    homepage="https://huggingface.co/docs/timm",
)
