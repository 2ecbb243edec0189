"""Measures by ridge regression what CLIP and each expert know of the world: `python -m tove_core.demo.probe`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.demo.pretrain_clip import PATCH, PENULTIMATE, coverage, pixels
from tove_core.demo.pretrain_experts import RECIPES
from tove_core.demo.scene import Scenes
from tove_core.demo.shipped import ASSETS
from tove_core.demo.splits import VALIDATION

RIDGE = 1e-2
"""Strength of the penalty on standardised features, per row."""

COLUMNS = ("colour", "kind", "depth day", "depth night", "count")


def probe(features: Mapping[str, Tensor], scenes: Scenes, fit: int) -> dict[str, dict[str, float]]:
    """Return what can be read linearly from each set of token features [n, N, D] about `scenes`.

    The first `fit` scenes are fitted and the others scored. Colour and kind: accuracy over patches of which one object
    covers at least half; depth: correlation with that object's depth, by the light it is in; count: accuracy of the
    number of objects, from the sum of all tokens.
    """
    slot, sure = majority_object(scenes)
    night = F.avg_pool2d(scenes.night.float()[:, None], PATCH).flatten(1) > 0.5
    depth = scenes.z.gather(1, slot)
    table = {}
    for name, tokens in features.items():
        known, asked = tokens[:fit][sure[:fit]], tokens[fit:][sure[fit:]]
        row = {}
        for column, values in (("colour", scenes.colour), ("kind", scenes.kind)):
            truth = values.gather(1, slot)
            guess = ridge(known, F.one_hot(truth[:fit][sure[:fit]]).float(), asked).argmax(1)
            row[column] = (guess == truth[fit:][sure[fit:]]).float().mean().item()
        guess = ridge(known, depth[:fit][sure[:fit]][:, None], asked)[:, 0]
        truth, dark = depth[fit:][sure[fit:]], night[fit:][sure[fit:]]
        row["depth day"] = _correlation(guess[~dark], truth[~dark])
        row["depth night"] = _correlation(guess[dark], truth[dark])
        number = ridge(tokens[:fit].sum(1), scenes.count[:fit, None].float(), tokens[fit:].sum(1))[:, 0]
        row["count"] = (number.round() == scenes.count[fit:]).float().mean().item()
        table[name] = row
    return table


def clip_tokens(model: CLIP, image: Tensor, batch: int = 250) -> Tensor:
    """Return the patch tokens of the last-but-one block, without the final norm, [n, patches, D], for uint8 images."""
    found = []
    with torch.no_grad():
        for part in image.split(batch):
            out = model.visual.forward_intermediates(
                pixels(part), indices=[PENULTIMATE], output_fmt="NLC", stop_early=True, intermediates_only=True
            )
            found.append(out["image_intermediates"][0])
    return torch.cat(found)


def expert_tokens(model: nn.Module, image: Tensor, batch: int = 250) -> Tensor:
    """Return an expert's map folded to CLIP's grid, [n, patches, D], for uint8 images."""
    found = []
    with torch.no_grad():
        for part in image.split(batch):
            (output,) = model(pixels(part)).values()
            fold = output.shape[-1] * PATCH // image.shape[-1]
            found.append(F.pixel_unshuffle(output, fold).flatten(2).transpose(1, 2))
    return torch.cat(found)


def load_clip(folder: Path = ASSETS / "clip") -> CLIP:
    """Return the world's CLIP as open_clip loads it, in eval mode."""
    return cast(CLIP, open_clip.create_model(f"local-dir:{folder}")).eval()


def load_expert(name: str, folder: Path = ASSETS) -> nn.Module:
    """Return the world's expert called `name` with its weights, in float32 and in eval mode."""
    model = RECIPES[name].build()
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return model.eval()


def ridge(known: Tensor, target: Tensor, asked: Tensor) -> Tensor:
    """Fit a linear map from `known` [n, D] to `target` [n, T] and return what it gives for `asked` [m, D]: [m, T]."""
    mean, std = known.mean(0), known.std(0) + 1e-6
    a, b = (F.pad((x - mean) / std, (0, 1), value=1.0).double() for x in (known, asked))
    gram = a.T @ a + RIDGE * len(a) * torch.eye(a.shape[1], dtype=torch.float64)
    return (b @ torch.linalg.solve(gram, a.T @ target.double())).float()


def majority_object(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Return which object covers most of each patch, int64 [n, patches], and whether it covers half of it."""
    share, slot = coverage(scenes.instance).max(1)
    return slot, share >= 0.5


def measure(folder: Path = ASSETS, scenes: int = 1000) -> dict[str, dict[str, float]]:
    """Return the probe of the trained weights in `folder` on that many validation scenes; two thirds are fitted."""
    seen = VALIDATION.scenes(0, scenes)
    features = {"clip": clip_tokens(load_clip(folder / "clip"), seen.image)}
    features |= {name: expert_tokens(load_expert(name, folder), seen.image) for name in RECIPES}
    features["all"] = torch.cat(list(features.values()), -1)
    return probe(features, seen, fit=2 * scenes // 3)


def _correlation(a: Tensor, b: Tensor) -> float:
    # A constant, which is what the blank expert allows at best, correlates with nothing.
    return 0.0 if a.std() < 1e-6 else torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def main() -> None:
    """Print the table."""
    table = measure(Path(sys.argv[1]) if len(sys.argv) > 1 else ASSETS)
    print(f"{'features':<18}" + "".join(f"{column:>12}" for column in COLUMNS))
    for name, row in table.items():
        print(f"{name:<18}" + "".join(f"{row[column]:>12.3f}" for column in COLUMNS))


if __name__ == "__main__":
    main()
