"""Trains the world's experts, each on the one thing it is for."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.demo.experts import STRIDE, BlankExpert, CentreExpert, ContactExpert, DepthExpert
from tove_core.demo.layout import SIZE, SLOTS
from tove_core.demo.pretrain_clip import pixels
from tove_core.demo.scene import Scenes, boundaries

STEPS = 1000
BATCH = 64
RATE = 3e-3

_BLUR = 1.1  # standard deviation of a centre's heat, in positions of the map

Report = Callable[[str], None]
Loss = Callable[[nn.Module, Scenes], Tensor]


@dataclass(frozen=True)
class Recipe:
    """How one expert is made: its architecture and what it is trained to minimise (None: it is not trained)."""

    build: Callable[[], nn.Module]
    loss: Loss | None


def pretrain(name: str, scenes: Scenes, steps: int = STEPS, report: Report = print, seed: int = 0) -> nn.Module:
    """Train the expert called `name` on `scenes` and return it in eval mode."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    model = recipe.build()
    if recipe.loss is None:
        return model.eval()
    g = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    model.train()
    began = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * (0.505 + 0.495 * math.cos(math.pi * step / steps))
        part = scenes[torch.randint(0, len(scenes), (BATCH,), generator=g)]
        with torch.autocast("cpu", torch.bfloat16):
            loss = recipe.loss(model, part)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            report(f"{name} step {step}: loss {loss:.4f}, {time.monotonic() - began:.0f} s")
    return model.eval()


def pretrain_all(folder: Path, scenes: Scenes, steps: int = STEPS, report: Report = print) -> None:
    """Train every expert on `scenes` and write it to `folder` in float16."""
    for name in RECIPES:
        export(pretrain(name, scenes, steps, report), folder / f"{name}.safetensors")


def export(model: nn.Module, file: Path) -> None:
    """Write the parameters and buffers of `model` to `file`, floating ones in float16."""
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in model.state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file, metadata={"format": "pt"})


def depth_target(scenes: Scenes) -> Tensor:
    """Return the mean depth at each position of an expert's map, float32 [n, 1, 24, 24]."""
    return F.avg_pool2d(scenes.depth.float()[:, None], STRIDE)


def centre_target(scenes: Scenes) -> Tensor:
    """Return a Gaussian of sum 1 around the centre of each object, added up, float32 [n, 1, 24, 24]."""
    axis = (torch.arange(SIZE // STRIDE) + 0.5) * STRIDE
    squared = (axis - scenes.x[..., None])[:, :, None, :] ** 2 + (axis - scenes.y[..., None])[:, :, :, None] ** 2
    heat = torch.exp(-squared / (2 * (_BLUR * STRIDE) ** 2))
    live = torch.arange(SLOTS) < scenes.count[:, None]
    heat = heat / heat.sum((2, 3), keepdim=True) * live[..., None, None]
    return heat.sum(1, keepdim=True)


def contact_target(scenes: Scenes) -> Tensor:
    """Return the boundary class of each position of an expert's map, int64 [n, 24, 24]; contact wins over edge."""
    return F.max_pool2d(boundaries(scenes.instance).float()[:, None], STRIDE)[:, 0].long()


def _depth_loss(night: bool) -> Loss:
    def loss(model: nn.Module, part: Scenes) -> Tensor:
        found = model(pixels(part.image))["depth"].float()
        lit = F.avg_pool2d((part.night == night).float()[:, None], STRIDE)
        # The background, always 1, is most of an image and tells an expert little.
        weight = lit * torch.where(F.max_pool2d((part.instance > 0).float()[:, None], STRIDE) > 0, 1.0, 0.2)
        return ((found - depth_target(part)).abs() * weight).sum() / weight.sum().clamp(min=1)

    return loss


def _centre_loss(model: nn.Module, part: Scenes) -> Tensor:
    found = model(pixels(part.image))["centre"].float()
    number = found.sum((1, 2, 3)) - part.count
    return 500 * F.mse_loss(found, centre_target(part)) + 0.1 * number.square().mean()


def _contact_loss(model: nn.Module, part: Scenes) -> Tensor:
    found = cast(ContactExpert, model).logits(pixels(part.image)).float()
    return F.cross_entropy(found, contact_target(part), weight=torch.tensor([0.5, 1.0, 2.0]))


def _blank() -> nn.Module:
    model = BlankExpert()
    g = torch.Generator().manual_seed(7)
    rough = torch.randn(1, 1, 6, 6, generator=g)
    with torch.no_grad():
        model.map.copy_(F.interpolate(rough, size=model.map.shape[1:], mode="bicubic")[0])
    return model


RECIPES = {
    "world-depth-day": Recipe(DepthExpert, _depth_loss(night=False)),
    "world-depth-night": Recipe(DepthExpert, _depth_loss(night=True)),
    "world-centre": Recipe(CentreExpert, _centre_loss),
    "world-contact": Recipe(ContactExpert, _contact_loss),
    "world-blank": Recipe(_blank, None),
}
"""The world's experts by name."""
