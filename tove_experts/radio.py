"""C-RADIO v4: one backbone distilled from several teachers (SigLIP 2, DINOv3 and SAM 3 among them).

Size as `RadioConfig` documents it for `nvidia/C-RADIOv4-H`. Mean and standard deviation are inside the model, which
takes pixels from 0 to 1. Any size whose sides are multiples of 16 works, up to 2048.
"""

from __future__ import annotations

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Weights

RADIO = ExpertSpec(
    api=1,
    name="radio",
    summary="C-RADIO v4 ViT-H, distilled from several teachers, 32x32 at 512 pixels.",
    factory="tove_experts.adapters.transformers_tokens:build_radio",
    convert="tove_experts.adapters.transformers_tokens:convert_radio",
    input=Input(size=(512, 512), patch=16, dynamic=True),
    outputs={"patches": Grid(channels=1280, stride=16)},
    weights=Weights(
        # Revision and hash were not known when this was written: the first download records both.
        repo="nvidia/C-RADIOv4-H",
        license="LicenseRef-NVIDIA-Open-Model",
        license_url=(
            "https://developer.download.nvidia.com/licenses/nvidia-open-model-license-agreement-june-2024.pdf"
        ),
        commercial=True,
    ),
    cost=Cost(params=651_727_360, flops=1_478_256_885_760),
    options={"config": {}},
    tiny={
        "config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_img_size": 128},
    },
    tiny_input=Input(size=(64, 96), patch=16, dynamic=True),
    homepage="https://github.com/NVlabs/RADIO",
    citation="arXiv:2601.17237",
)
