"""Numbers of positions in language models that count from elsewhere than 0.

RoBERTa and its kin begin behind the number of the padding token. Their forward pass knows that, but `generate` of
transformers tells every model positions from 0, so that a trained model would answer from places it never saw.
"""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel


def first_position(language_model: PreTrainedModel) -> int:
    """Return the number of a text's first position."""
    for module in language_model.modules():
        # What their embeddings have in common, whatever the model is called.
        if hasattr(module, "create_position_ids_from_input_ids"):
            return int(module.padding_idx) + 1  # type: ignore[arg-type]
    return 0


def position_ids(attention_mask: Tensor, first: int) -> dict[str, Tensor]:
    """Return the input `position_ids` [B, L] of texts with padding on either side; none where they count from 0."""
    if first == 0:
        return {}
    return {"position_ids": (attention_mask.long().cumsum(-1) - 1).clamp(min=0) + first}
