from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import (
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)
from transformers.image_utils import PILImageResampling

from tove_experts.trocr import TROCR


def whole(encoder, **decoder):
    text = TrOCRConfig(**decoder)
    text.cross_attention_hidden_size = encoder.hidden_size
    return VisionEncoderDecoderModel(
        config=VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, text)  # type: ignore[arg-type]
    )


# Li et al., "TrOCR", table of models: base 334M, large 558M, with the decoder that is left out here.
@pytest.mark.parametrize(("variant", "millions"), [("base", 334), ("large", 558)])
def test_every_size_is_the_encoder_of_the_published_model(variant, millions, on_meta, count):
    spec = TROCR.variant(variant)
    with torch.device("meta"):
        model = whole(ViTConfig(**deepcopy(spec.options["config"])))
    found = count(on_meta(TROCR, variant))
    assert found == spec.cost.params
    pooler = count(model.encoder.pooler) if model.encoder.pooler is not None else 0
    assert found == count(model.encoder) - pooler
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.5)


def test_patches_are_the_librarys_tokens_row_by_row(through_the_hub, photo, seen, close):
    decoder = {
        "vocab_size": 20,
        "d_model": 16,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
    }
    model = whole(ViTConfig(**deepcopy(TROCR.tiny["config"])), **decoder)
    expert = through_the_hub(TROCR, model)
    input = expert.spec.input
    image = photo(input)
    size = {"height": input.size[0], "width": input.size[1]}
    pixels = ViTImageProcessor(size=size)(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        tokens = model.get_encoder()(pixels).last_hidden_state
    rows, columns = input.size[0] // 16, input.size[1] // 16
    patches = torch.zeros(1, tokens.shape[2], rows, columns)
    for row in range(rows):
        for column in range(columns):
            patches[0, :, row, column] = tokens[0, 1 + row * columns + column]
    close(expert(seen(image, input)), {"patches": patches})


def test_preprocessing_is_what_the_library_declares():
    declared, input = ViTImageProcessor, TROCR.input
    assert (list(input.mean), list(input.std)) == (list(declared.image_mean), list(declared.image_std))
    assert declared.resample == PILImageResampling.BILINEAR and input.interpolation == "bilinear"
    assert input.size == (384, 384) and TROCR.variant("base").options["config"]["image_size"] == 384
