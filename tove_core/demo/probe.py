"""Measures by ridge regression what CLIP and each expert know: `python -m tove_core.demo.probe`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_core.demo.pretrain_clip import PENULTIMATE, coverage, pixels
from tove_core.demo.scene import Scenes

RIDGE = 1e-2


def clip_tokens(model: torch.nn.Module, image: Tensor, batch: int = 250) -> Tensor:
    """Return the patch tokens of the last-but-one block, float32 [n, patches, D], for uint8 images."""
    found = []
    with torch.no_grad():
        for part in image.split(batch):
            out = model.visual.forward_intermediates(
                pixels(part), indices=[PENULTIMATE], output_fmt="NLC", stop_early=True, intermediates_only=True
            )
            found.append(out["image_intermediates"][0])
    return torch.cat(found)


def ridge(fit: Tensor, target: Tensor, score: Tensor) -> Tensor:
    """Fit a linear map from `fit` [n, D] to `target` [n, T] and return what it gives for `score` [m, D], [m, T]."""
    mean, std = fit.mean(0), fit.std(0) + 1e-6
    a, b = (F.pad((x - mean) / std, (0, 1), value=1.0).double() for x in (fit, score))
    gram = a.T @ a + RIDGE * len(a) * torch.eye(a.shape[1], dtype=torch.float64)
    return (b @ torch.linalg.solve(gram, a.T @ target.double())).float()


def majority_object(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Return the object that covers most of each patch, int64 [n, patches], and whether it covers half of it."""
    share, slot = coverage(scenes.instance).max(1)
    return slot, share >= 0.5
