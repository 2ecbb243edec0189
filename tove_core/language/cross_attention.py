"""The image seen by cross-attention, in BERT or GPT-2 as decoder: the small-data setting of Prismer and ToVE."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, EncoderDecoderCache, PretrainedConfig, PreTrainedModel

from tove_core.errors import ConfigError
from tove_core.language.base import Decoder
from tove_core.language.batch import TextBatch


def cross_attention_parameters(config: PretrainedConfig) -> frozenset[str]:
    """Return the names of the parameters that a language model has only because it attends to an encoder.

    Found by building it with and without cross-attention on the meta device, which costs no memory.

    Raises:
        ConfigError: this kind of language model cannot be given cross-attention.
    """
    if not hasattr(config, "add_cross_attention"):
        raise ConfigError(
            f"{config.model_type!r} language models have no cross-attention; "
            "use kind 'prefix', or BERT, RoBERTa or GPT-2"
        )
    return _names(config, True) - _names(config, False)


def _names(config: PretrainedConfig, cross: bool) -> frozenset[str]:
    config = copy.deepcopy(config)
    config.add_cross_attention = cross  # type: ignore[attr-defined]
    with torch.device("meta"):
        return frozenset(name for name, _ in AutoModelForCausalLM.from_config(config).named_parameters())


class CrossAttentionDecoder(Decoder):
    """Projected vision tokens are the encoder states that a decoder with cross-attention layers looks at.

    The language model must have been built with `add_cross_attention` (`load_decoder` does); the prompt is the
    beginning of its text, and the image's place in the template is left out, as are marks of images in the prompt.
    """

    needs_start = True

    @staticmethod
    def hidden(language_model: PreTrainedModel) -> int:
        """Return the width the projector ends in: that of what a language model reads of an encoder.

        Raises:
            ConfigError: the language model was built without cross-attention layers.
        """
        if not getattr(language_model.config, "add_cross_attention", False):
            raise ConfigError(
                f"{type(language_model).__name__} was built without cross-attention layers; "
                "set add_cross_attention in its configuration or use kind 'prefix'"
            )
        return language_model.config.hidden_size

    def _positions(self, tokens: int) -> int:
        return 0

    def _trained(self) -> list[nn.Parameter]:
        if self.config.train != "cross-attention":
            return super()._trained()
        names = cross_attention_parameters(self.language_model.config)
        return [p for name, p in self.language_model.named_parameters() if name in names]

    def _logits(self, tokens: Tensor, batch: TextBatch) -> Tensor:
        return self._run(batch, input_ids=batch.ids, encoder_hidden_states=self._states(tokens))

    def _generate(self, tokens: Tensor, batch: TextBatch, options: dict[str, Any]) -> Tensor:
        config = self.language_model.config
        # BERT needs the two-part cache from the start; generate repeats the encoder states for beams by itself.
        cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        ids = self.language_model.generate(  # type: ignore[operator]
            input_ids=batch.ids,
            attention_mask=batch.attention_mask,
            **self._places(batch),
            encoder_hidden_states=self._states(tokens),
            past_key_values=cache,
            **options,
        )
        return ids[:, batch.ids.shape[1] :]

    def _states(self, tokens: Tensor) -> Tensor:
        return self.projector(tokens).to(self.language_model.dtype)
