"""PP-OCRv5 (mobile): lines of text, found by one network and read by another.

Architectures as transformers has them: the detector's by default, the reader's with the stages of PaddleOCR's
recognition backbone. Preprocessing as their image processors declare it, but for the shape: the hub squashes the view
to 960x960 where the processor keeps its proportions, so letters of a wide photo are narrower. The detector was trained
on BGR with ImageNet's statistics in RGB order, which is why these are reversed here. Characters: PaddleOCR's
`ppocrv5_dict.txt` (Apache-2.0), shipped beside the adapter. FLOPs are the detector's, counted by torch's
FlopCounterMode, for one image; reading adds to them with every line.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Input, Regions, Weights

_STAGES: list[Any] = [
    # kernel, channels in and out, stride (rows, columns), squeeze and excitation
    [[3, 16, 32, 1, False]],
    [[3, 32, 64, 1, False], [3, 64, 64, 1, False]],
    [[3, 64, 128, [2, 1], False], [3, 128, 128, 1, False]],
    [[3, 128, 256, [1, 2], False], *([[5, 256, 256, 1, False]] * 4)],
    [[5, 256, 512, [2, 1], True], [5, 512, 512, 1, True], [5, 512, 512, [2, 1], False], [5, 512, 512, 1, False]],
]
_SMALL: dict[str, Any] = {"scale": 1.0, "divisor": 8, "stem_channels": 8}


def _stages(down: Any, across: Any) -> list[Any]:
    """Return small stages, whose third and last have stride `down` and whose fourth has `across`."""
    first = 2 if down == 2 else 1
    last = [[3, 16, 16, down, True]] if down == 2 else [[3, 16, 16, down, True], [3, 16, 16, down, False]]
    return [
        [[3, 8, 8, 1, False]],
        [[3, 8, 8, first, False]],
        [[3, 8, 16, down, False]],
        [[3, 16, 16, across, False]],
        last,
    ]


def _input(height: int, width: int) -> Input:
    return Input(
        size=(height, width),
        patch=32,
        mean=(0.406, 0.456, 0.485),
        std=(0.225, 0.224, 0.229),
        interpolation="bilinear",
        dynamic=True,
    )


# Revisions and hashes were not known when this was written: the first download records them.
_READER = Weights(repo="PaddlePaddle/PP-OCRv5_mobile_rec_safetensors", license="Apache-2.0", commercial=True)
_DETECTOR = Weights(
    repo="PaddlePaddle/PP-OCRv5_mobile_det_safetensors",
    license="Apache-2.0",
    commercial=True,
    more={"reader": _READER},
)

PP_OCR = ExpertSpec(
    api=1,
    name="pp-ocr",
    summary="PP-OCRv5: lines of text, where they are and what they say.",
    factory="tove_experts.adapters.pp_ocr:build",
    convert="tove_experts.adapters.pp_ocr:convert",
    input=_input(960, 960),
    outputs={"lines": Regions(limit=64, text=True)},
    weights=_DETECTOR,
    cost=Cost(params=11_174_398, flops=21_161_887_488),
    options={
        "detector": {},
        "reader": {"backbone_config": {"scale": 0.95, "block_configs": _STAGES}},
        "threshold": 0.3,
        "box_threshold": 0.6,
        "unclip": 1.5,
    },
    tiny={
        "detector": {"backbone_config": _SMALL | {"block_configs": _stages(2, 2)}, "neck_out_channels": 16},
        "reader": {
            "backbone_config": _SMALL | {"block_configs": _stages([2, 1], [1, 2])},
            "hidden_size": 16,
            "num_attention_heads": 2,
            "head_out_channels": 300,
        },
        # Random weights are never sure of anything.
        "box_threshold": 0.3,
    },
    tiny_input=_input(96, 160),
    homepage="https://github.com/PaddlePaddle/PaddleOCR",
    citation="arXiv:2507.05595",
)
