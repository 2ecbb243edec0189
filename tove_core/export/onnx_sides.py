"""The two sides of a CLIP as modules from tensors to tensors, which can be traced."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tove_core.export.hf_dir import embed_ids
from tove_core.tower.base import Tower


class Side(nn.Module):
    """What is written as one graph.

    Attributes:
        given: name of its input.
        gives: names of its outputs, in their order.
    """

    given: str
    gives: tuple[str, ...]

    def example(self) -> Tensor:
        """Return an input of two rows to trace it with."""
        raise NotImplementedError


class ImageSide(Side):
    """Pixels [B, 3, H, W], normalised, to tokens [B, N, D] and, where the tower has one, the embedding [B, E]."""

    given = "pixels"

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        self.gives = ("tokens",) if tower.embed_width is None else ("tokens", "embedding")
        self.eval()

    def example(self) -> Tensor:
        """Return two images of noise, as any constant might be taken for one of the graph's."""
        return torch.randn(2, 3, *self.tower.input.size, generator=torch.Generator().manual_seed(0))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return what `gives` names."""
        if self.tower.embed_width is None:
            return (self.tower.features(pixels).patches,)
        # In one pass: asked for one after the other, the graph held every block twice.
        tokens, embedding = self.tower.features_and_embedding(pixels)
        return tokens.patches, embedding


class TextSide(Side):
    """Token ids [B, L], int64 and of full length, to text embeddings [B, E]."""

    given = "ids"
    gives = ("embedding",)

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        self.eval()

    def example(self) -> Tensor:
        """Return the ids of two texts."""
        return torch.tensor(self.tower.token_ids(["a photo of a cat", "two red cubes"]))

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        """Return what `gives` names."""
        found = embed_ids(self.tower, ids)
        # Models configured with output_tokens answer (pooled, tokens).
        return (found[0] if isinstance(found, tuple) else found,)
