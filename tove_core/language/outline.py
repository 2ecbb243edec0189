"""A decoder's architecture on the meta device: counted and measured without weights, memory or tokenizer."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from tove_core.config import DecoderConfig
from tove_core.errors import WeightsError
from tove_core.hub.download import fetch_file
from tove_core.hub.reference import resolve_folder
from tove_core.language.cross_attention import cross_attention_parameters
from tove_core.language.load import KINDS, prepare, unreachable
from tove_core.language.lora import add_lora
from tove_core.language.projector import Projector


class DecoderOutline(nn.Module):
    """Projector and language model of a decoder, on meta, run as the decoder runs them.

    Attributes:
        repository: hub id of its files; None: they lie in a folder.
        stored_dtype: precision of the published weights as their configuration states it; None: it does not.
    """

    def __init__(self, config: DecoderConfig, width: int) -> None:
        """Read `config.json` and build the architecture; a hub id is asked for that file alone.

        Raises:
            ConfigError: there is no such folder, or the model cannot be a decoder of the wanted kind.
            WeightsError: the configuration cannot be read.
        """
        super().__init__()
        folder = resolve_folder(config.name)
        self.repository = config.name if folder is None else None
        place = None
        try:
            place = folder or fetch_file(config.name, "config.json").parent
            settings = AutoConfig.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            if isinstance(error, WeightsError):
                raise
            raise unreachable(config.name, error, place and str(place)) from error
        prepare(settings, config)
        stored: Any = settings.dtype
        self.stored_dtype: torch.dtype | None = getattr(torch, stored) if isinstance(stored, str) else stored
        self.prefix = config.kind == "prefix"
        with torch.device("meta"):
            self.language_model: Any = AutoModelForCausalLM.from_config(settings, dtype=getattr(torch, config.dtype))
            self.projector = Projector(width, KINDS[config.kind].hidden(self.language_model))
        self._selects = "logits_to_keep" in inspect.signature(self.language_model.forward).parameters
        self.language_model.requires_grad_(config.train == "all")
        if config.train == "cross-attention":
            fresh = cross_attention_parameters(settings)
            for name, parameter in self.language_model.named_parameters():
                parameter.requires_grad_(name in fresh)
        if config.train == "lora":
            for parameter in add_lora(self.language_model, config.lora):
                parameter.requires_grad_(True)
        self.eval()

    def forward(self, tokens: Tensor, length: int, answer: int | None = None) -> Tensor:
        """Return logits of `length` tokens of text about vision tokens [B, N, D], on their device.

        Args:
            tokens: what the image is seen as.
            length: tokens of the text.
            answer: how many of them, the last, are to be predicted; None: all.
        """
        image = self.projector(tokens).to(self.language_model.dtype)
        ids = torch.zeros(len(tokens), length, dtype=torch.long, device=tokens.device)
        # With a cache no mask is looked into, which meta could not do; what it holds the backward pass keeps anyway.
        keep = {"use_cache": True} | ({"logits_to_keep": answer or length} if self._selects else {})
        # Embedded already: given ids, some look for padding among their values, which meta does not have.
        text = self.language_model.get_input_embeddings()(ids)
        if not self.prefix:
            return self.language_model(inputs_embeds=text, encoder_hidden_states=image, **keep).logits
        return self.language_model(inputs_embeds=torch.cat([image, text], 1), **keep).logits
