"""Any vision backbone of transformers, by its hub id or local folder: `hf-backbone:OWNER/NAME`, `hf-backbone:./FOLDER`.

The configuration and the image processor's configuration say what it is; its licence is for you to read, since neither
states one. The spec itself is that of a ViT with the defaults of `transformers.ViTConfig`, which its documentation says
are those of google/vit-base-patch16-224.

A model whose patches do not divide its image, such as a SigLIP of 384 pixels and patches of 14, is asked for whole ones
(378 pixels, 27x27 patches, the positions it was trained with): its map is one of the whole image.
"""

from __future__ import annotations

from tove_core.spec import Cost, ExpertSpec, Grid, Input, Weights
from tove_experts.pixels import HALF

HF_BACKBONE = ExpertSpec(
    api=1,
    name="hf-backbone",
    summary="Any vision backbone of transformers: hf-backbone:OWNER/NAME or :FOLDER.",
    factory="tove_experts.adapters.hf_backbone:build",
    convert="tove_experts.adapters.hf_backbone:convert",
    family="tove_experts.adapters.hf_family:member",
    input=Input(size=(224, 224), patch=16, interpolation="bilinear", **HALF),
    outputs={"patches": Grid(channels=768, stride=16)},
    weights=Weights(
        repo="google/vit-base-patch16-224",
        license="LicenseRef-unknown",
        license_url="https://huggingface.co/google/vit-base-patch16-224",
    ),
    cost=Cost(params=85_798_656),
    options={"config": {"model_type": "vit"}},
    tiny={
        "config": {"model_type": "vit", "hidden_size": 48, "intermediate_size": 60, "num_hidden_layers": 2,
                   "num_attention_heads": 3, "image_size": 80}
    },
    tiny_input=Input(size=(80, 80), patch=16, interpolation="bilinear", **HALF),
    homepage="https://huggingface.co/docs/transformers",
)  # fmt: skip
