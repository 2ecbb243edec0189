from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from tove_core.tower.open_clip import OpenClipTower

VISION = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 40}
TEXT = {"context_length": 9, "vocab_size": 61, "width": 32, "heads": 2, "layers": 2}

SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
GROUPED = SMALL | {"num_key_value_heads": 1}
SPREAD = {"n_embd": 24, "n_layer": 2, "n_head": 3}
CAPPED = GROUPED | {"head_dim": 8, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": lambda **ids: transformers.LlamaConfig(**GROUPED, **ids),
    "llama tied": lambda **ids: transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True, **ids),
    "qwen2 tied": lambda **ids: transformers.Qwen2Config(**GROUPED, tie_word_embeddings=True, **ids),
    "mistral": lambda **ids: transformers.MistralConfig(**GROUPED, **ids),
    "gemma tied": lambda **ids: transformers.GemmaConfig(**GROUPED, head_dim=8, **ids),
    # Tied under another name than Llava's, so that its head is written out.
    "gpt2 tied": lambda **ids: transformers.GPT2Config(**SPREAD, **ids),
    "gpt_neox": lambda **ids: transformers.GPTNeoXConfig(**SMALL, **ids),
    "gemma2": lambda **ids: transformers.Gemma2Config(**CAPPED, final_logit_softcapping=0.5, **ids),
    "phi": lambda **ids: transformers.PhiConfig(**SMALL, **ids),
    "bert": lambda **ids: transformers.BertConfig(**SMALL, is_decoder=True, **ids),
    "mamba": lambda **ids: transformers.MambaConfig(hidden_size=24, state_size=5, num_hidden_layers=2, **ids),
}


@pytest.fixture
def make_tower() -> Callable[..., OpenClipTower]:
    """Build a tiny open_clip tower with blocks that matter."""

    def make(
        vision: dict | None = None, text: dict | None = None, preprocess: dict | None = None, **top: Any
    ) -> OpenClipTower:
        cfg = {"embed_dim": 20, "vision_cfg": VISION | (vision or {}), "text_cfg": TEXT | (text or {}), **top}
        kind = open_clip.CustomTextCLIP if top.get("custom_text") else open_clip.CLIP
        torch.manual_seed(3)
        model = kind(**{k: v for k, v in cfg.items() if k != "custom_text"})
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2)
        return OpenClipTower.wrap(model, cfg, preprocess_cfg=preprocess, reference="tiny")

    return make


@pytest.fixture
def language(toy: Any, tmp_path: Path) -> Callable[..., str]:
    """Give `language(family)`: the folder of a tiny language model with the toy's tokenizer."""

    def write(
        family: str, *, chat: str | None = None, adds_start: bool = False, spare: int = 0, **settings: Any
    ) -> str:
        tokenizer: Any = AutoTokenizer.from_pretrained(toy.decoder)
        tokenizer.chat_template = chat
        if adds_start:
            from tokenizers.processors import TemplateProcessing

            ends = [("<s>", 0), ("</s>", 1)]
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=ends)
        torch.manual_seed(3)
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        config = FAMILIES[family](vocab_size=len(tokenizer) + spare, **{**ids, **settings})
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_((0.4 if family == "mamba" else 0.15) * torch.randn_like(parameter))
        folder = tmp_path / family.replace(" ", "-")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return write


@pytest.fixture
def transformers_clip(tmp_path: Path) -> Callable[..., str]:
    """Give `transformers_clip(kind)`: the reference of a tiny CLIP or SigLIP of 5x5 tokens."""

    def write(kind: str = "clip", **changes: Any) -> str:
        torch.manual_seed(2)
        sizes = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 2}
        sizes |= {"image_size": 40, "patch_size": 8, **changes}
        model = {
            "clip": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes)),
            "siglip": lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**sizes)),
        }[kind]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2 if parameter.ndim > 1 else 1)
        model.save_pretrained(tmp_path / kind)
        processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.2], "size": {"height": 40, "width": 40}}
        (tmp_path / kind / "preprocessor_config.json").write_text(json.dumps(processor))
        return f"hf:{tmp_path / kind}"

    return write
