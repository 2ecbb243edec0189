"""The image as a prefix of any causal language model, in LLaVA's form."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from tove_core.language.base import Decoder
from tove_core.language.batch import TextBatch


class PrefixDecoder(Decoder):
    """Projected vision tokens take the image's place among the embedded text, in any `AutoModelForCausalLM`.

    With a merged CLIP in front this is a LLaVA (Liu et al. 2023): same projector, same order of tokens.
    """

    @staticmethod
    def hidden(language_model: PreTrainedModel) -> int:
        """Return the width the projector ends in: that of the text's embeddings."""
        return language_model.get_input_embeddings().weight.shape[1]  # type: ignore[index]

    def _positions(self, tokens: int) -> int:
        return tokens

    def _logits(self, tokens: Tensor, batch: TextBatch) -> Tensor:
        return self._run(batch, inputs_embeds=self._embed(tokens, batch))

    def _generate(self, tokens: Tensor, batch: TextBatch, options: dict[str, Any]) -> Tensor:
        # Given embeddings alone, generate returns new tokens only.
        embeddings = self._embed(tokens, batch)
        given = {"attention_mask": batch.attention_mask, **self._places(batch), **options}
        return self.language_model.generate(inputs_embeds=embeddings, **given)  # type: ignore[return-value, operator]

    def _embed(self, tokens: Tensor, batch: TextBatch) -> Tensor:
        """Return [B, L, hidden]: embedded text with the projected tokens at the image's positions."""
        text: Tensor = self.language_model.get_input_embeddings()(batch.ids)
        image = self.projector(tokens).to(text.dtype)
        # By number rather than by mask: the number of places in a mask must be waited for on a GPU.
        filled = text.flatten(0, 1).index_copy(0, batch.places, image.flatten(0, 1))
        return filled.unflatten(0, text.shape[:2])
