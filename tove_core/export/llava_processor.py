"""What prepares images and prompts for an exported LLaVA, as transformers' `LlavaProcessor`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerBase
from transformers.models.llava import LlavaImageProcessor

from tove_core.errors import ConfigError
from tove_core.export.hf_dir import processor_settings
from tove_core.export.llava_model import has_class_token
from tove_core.export.llava_template import chat_template
from tove_core.hub.view import View
from tove_core.language.base import Decoder
from tove_core.language.marks import IMAGE
from tove_core.tower.base import Tower

IMAGE_FILE = "preprocessor_config.json"
"""Where readers beside transformers 5 look for the image processor's settings."""


def save_processor(tower: Tower, decoder: Decoder, view: View, folder: Path) -> int:
    """Write tokenizer, chat template and image processor, and return the id of the image token.

    Args:
        view: region of an image that the model sees.

    Raises:
        ConfigError: images are not as transformers' processors take them.
    """
    tokenizer = llava_tokenizer(decoder)
    settings = image_settings(tower, view)
    kind = LlavaImageProcessor if view == "pad" else CLIPImageProcessor
    template = chat_template(decoder.layout)
    processor: Any = LlavaProcessor(
        image_processor=kind(**settings),
        tokenizer=tokenizer,
        patch_size=_patch(tower),
        vision_feature_select_strategy="default" if has_class_token(tower) else "full",
        num_additional_image_tokens=int(has_class_token(tower)),
        chat_template=template,
    )
    processor.save_pretrained(folder)
    (folder / IMAGE_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return int(processor.image_token_id)


def llava_tokenizer(decoder: Decoder) -> PreTrainedTokenizerBase:
    """Return a copy of the decoder's tokenizer that knows the image token and adds no token by itself.

    What stands before a text is the chat template's to say: some readers of such folders let the tokenizer add its
    start token to it, others do not.
    """
    tokenizer: Any = copy.deepcopy(decoder.tokenizer)
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE], special_tokens=True)
    settings: dict[str, Any] = {name: False for name in ("add_bos_token", "add_eos_token") if hasattr(tokenizer, name)}
    settings["padding_side"] = "left"  # of a batch that is generated from
    for name, value in settings.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value  # else it would not be saved
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.post_processor = None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(decoder.pad)
    return tokenizer


def image_settings(tower: Tower, view: View) -> dict[str, Any]:
    """Return the image processor's settings: the tower's size and normalisation, and the region seen.

    Raises:
        ConfigError: pixels do not go from 0 to 1 before they are normalised.
    """
    if tower.input.range != (0, 1):
        raise ConfigError(f"the tower sees pixels in {tower.input.range}, but transformers' processors give 0 to 1")
    settings = processor_settings(tower, "squash" if view == "squash" else "shortest", "CLIPImageProcessor")
    # The one of transformers' processors that pads to a square as LLaVA does: with the mean colour.
    return settings | ({"image_processor_type": "LlavaImageProcessor", "do_pad": True} if view == "pad" else {})


def _patch(tower: Tower) -> int:
    # Images need not be whole patches, but as many fit as the grid has.
    return tower.input.patch or tower.input.size[0] // tower.grid[0]
