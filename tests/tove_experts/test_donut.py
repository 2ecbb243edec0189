from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from transformers import (
    DonutImageProcessor,
    DonutSwinConfig,
    MBartConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from transformers.image_utils import PILImageResampling

from tove_experts.donut import DONUT


def whole(encoder, **decoder):
    text = MBartConfig(is_decoder=True, is_encoder_decoder=False, add_cross_attention=True, **decoder)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, text)  # type: ignore[arg-type]
    return VisionEncoderDecoderModel(config=config)


def test_it_is_the_encoder_of_the_published_model(on_meta, count):
    spec = DONUT.variant()
    decoder = {"decoder_layers": 4, "max_position_embeddings": 1536, "vocab_size": 57525}
    with torch.device("meta"):
        model = whole(DonutSwinConfig(**deepcopy(spec.options["config"])), **decoder)
    # The file of naver-clova-ix/donut-base has 809 MB, four bytes to a parameter.
    assert 4 * count(model) / 1e6 == pytest.approx(809, rel=5e-3)
    assert count(on_meta(DONUT, None)) == count(model.encoder) == spec.cost.params


def test_patches_are_the_librarys_tokens_row_by_row(through_the_hub, photo, seen, close):
    decoder = {
        "vocab_size": 20,
        "d_model": 16,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
    }
    model = whole(DonutSwinConfig(**deepcopy(DONUT.tiny["config"])), **decoder)
    expert = through_the_hub(DONUT, model)
    input = expert.spec.input
    assert input.size[0] != input.size[1]
    image = photo(input)
    size = {"height": input.size[0], "width": input.size[1]}
    pixels = DonutImageProcessor(size=size)(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        tokens = model.get_encoder()(pixels).last_hidden_state
    rows, columns = input.size[0] // 32, input.size[1] // 32
    patches = torch.zeros(1, tokens.shape[2], rows, columns)
    for row in range(rows):
        for column in range(columns):
            patches[0, :, row, column] = tokens[0, row * columns + column]
    close(expert(seen(image, input)), {"patches": patches})


def test_preprocessing_is_what_the_library_declares():
    declared, input = DonutImageProcessor, DONUT.variant("full").input
    assert (list(input.mean), list(input.std)) == (list(declared.image_mean), list(declared.image_std))
    assert input.size == (declared.size["height"], declared.size["width"])
    assert declared.resample == PILImageResampling.BILINEAR and input.interpolation == "bilinear"
    assert DONUT.variant("half").input.size == (input.size[0] // 2, input.size[1] // 2)
