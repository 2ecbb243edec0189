"""What a tower is trained onto: the enhanced tokens of the model with its experts, and its CLIP's image embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from tove_core.config import MergeConfig
from tove_core.model import ToveModel
from tove_core.training.examples import Examples

KEPT = 65_536
"""Images whose embedding is kept: in main memory, of 768 channels of float32 3 kB each, 200 MB of all of them."""


class Teacher:
    """The model that is merged, which is frozen: what it says of an image is the same at every step.

    Args:
        model: with its experts.
        examples: whose images are seen.
        config: what is asked of it; nothing is computed whose weight is 0.
    """

    def __init__(self, model: ToveModel, examples: Examples, config: MergeConfig) -> None:
        self.model, self.examples, self.config = model, examples, config
        self._embeddings: dict[int, Tensor] = {}

    @torch.no_grad()
    def tokens(self, indices: Sequence[int]) -> Tensor:
        """Return v' [B, M·N, D] of samples with M images each."""
        shown = self.examples.shown(indices)
        return shown.by_sample(self.model.fuse(shown.features).tokens)

    @torch.no_grad()
    def embeddings(self, indices: Sequence[int], pixels: Tensor) -> Tensor:
        """Return CLIP's embeddings [B·M, E] of the samples' images, float32; the tower runs on those it has not seen.

        Args:
            indices: the samples.
            pixels: what CLIP sees of their images, [B·M, 3, h, w].
        """
        rows = [row for index in indices for row in self.examples.rows[index]]
        new = {row: place for place, row in enumerate(rows) if row not in self._embeddings}
        found = dict[int, Tensor]()
        if new:
            embedded = self.model.tower.embed(pixels[list(new.values())]).float().cpu()
            found = dict(zip(new, embedded, strict=True))
        given = [found[row] if row in found else self._embeddings[row] for row in rows]
        self._embeddings |= islice(found.items(), max(0, KEPT - len(self._embeddings)))
        return torch.stack(given).to(pixels.device)
