"""Surface normals by TIPSv2 with a DPT head, in place of the normals expert of ToVE's own hub.

NLL-AngMF, which ToVE took, is in no maintained library. This is the closest model that is in one: a frozen TIPSv2
backbone whose head was trained on indoor images (NYU Depth V2), so normals outdoors are an extrapolation. Sizes as
`Tipsv2DptConfig` and the `config.json` of `google/tipsv2-l14-dpt` give them; preprocessing as
`Tipsv2DptImageProcessor` declares it; licence as the model card states it. Needs transformers 5.14 or later.
"""

from __future__ import annotations

from typing import Any

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Variant, Weights


def _config(width: int, layers: int, heads: int, taken: list[int], neck: list[int], fusion: int) -> dict[str, Any]:
    backbone = {
        "model_type": "tipsv2_vision_model",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "out_indices": taken,
        "apply_layernorm": True,
        "reshape_hidden_states": False,
    }
    return {"backbone_config": backbone, "neck_hidden_sizes": neck, "fusion_hidden_size": fusion}


def _size(name: str, config: dict[str, Any], params: int, flops: int) -> Variant:
    return Variant(
        # Revision and hash were not known when this was written: the first download records both.
        weights=Weights(repo=f"google/tipsv2-{name}-dpt", license="Apache-2.0", commercial=True),
        cost=Cost(params=params, flops=flops),
        options={"config": config},
    )


_BASE = _config(768, 12, 12, [3, 6, 9, 12], [96, 192, 384, 768], 256)
_LARGE = _config(1024, 24, 16, [6, 12, 18, 24], [128, 256, 512, 1024], 256)

NORMALS = ExpertSpec(
    api=1,
    name="normals",
    summary="Surface normals by TIPSv2-DPT, unit vectors at 448 pixels.",
    factory="tove_experts.adapters.transformers_normals:build",
    convert="tove_experts.adapters.transformers_normals:convert",
    input=Input(size=(448, 448), patch=14, interpolation="bilinear", dynamic=True),
    outputs={"normals": Grid(channels=3, stride=1, norm="fixed", fold=4)},
    variants={
        "base": _size("b14", _BASE, params=110_179_011, flops=433_747_804_160),
        "large": _size("l14", _LARGE, params=337_875_203, flops=960_521_175_040),
    },
    default="base",
    tiny={"config": _config(32, 4, 2, [1, 2, 3, 4], [8, 16, 16, 32], 32)},
    # Large enough for a change of the image to stay in its place while weights are random.
    tiny_input=Input(size=(224, 168), patch=14, interpolation="bilinear", dynamic=True),
    homepage="https://github.com/google-deepmind/tips",
    citation="arXiv:2604.12012",
)
