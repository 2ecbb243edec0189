"""The projection from vision tokens to a language model's width, in LLaVA's form."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Module):
    """linear, GELU (exact), linear, both with bias; names as LLaVA's `multi_modal_projector`, so weights copy over.

    Args:
        width: channels D of the vision tokens.
        hidden: channels of the language model.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, N, D] to [B, N, hidden] in the projector's own dtype."""
        return self.linear_2(functional.gelu(self.linear_1(tokens.to(self.linear_1.weight.dtype))))
