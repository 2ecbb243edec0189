"""Describes any backbone of timm from timm's registry and the architecture itself: what `timm:NAME` resolves to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import timm
import torch
from timm.models import is_model, split_model_name_tag
from timm.models._pretrained import PretrainedCfg
from torch.utils.flop_counter import FlopCounterMode

from tove_core.errors import UnknownExpertError
from tove_core.spec import Cost, Grid, Input, Variant, Weights
from tove_experts.adapters.timm_backbone import TimmBackbone

LICENSES: dict[str, tuple[str, bool | None]] = {
    "apache-2.0": ("Apache-2.0", True),
    "mit": ("MIT", True),
    "bsd-3-clause": ("BSD-3-Clause", True),
    "cc-by-4.0": ("CC-BY-4.0", True),
    "cc-by-nc-4.0": ("CC-BY-NC-4.0", False),
    "dinov3-license": ("LicenseRef-DINOv3", None),
    "fair-noncommercial-research-license": ("LicenseRef-FAIR-Noncommercial-Research", False),
    "nvidia-open-model-license": ("LicenseRef-NVIDIA-Open-Model", True),
}
"""timm's names of licences: SPDX identifier, and whether commercial use is allowed (None: to be read)."""


@lru_cache(maxsize=64)
def member(name: str) -> Variant:
    """Return the variant for timm's model `name`, an architecture with or without a tag. Nothing is downloaded.

    Raises:
        UnknownExpertError: timm has no such model or no weights for it, or it gives no map of the whole image.
    """
    config = _config(name)
    model = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    if config.hf_hub_id is None:
        raise UnknownExpertError(f"timm has no weights on the hub for {model!r}; choose a model that has")
    license, commercial = LICENSES.get(config.license or "", (f"LicenseRef-{config.license or 'unknown'}", None))
    options: dict[str, Any] = {"architecture": model}
    module = _on_meta(model, {})
    wanted = _in_whole_patches(module, config)
    if config.fixed_input_size and wanted != tuple(config.input_size[1:]):
        options["arguments"] = {"img_size": list(wanted)}
        module = _on_meta(model, options["arguments"])
    size, shape, flops, normed = _look(model, module, wanted, fixed=config.fixed_input_size)
    if not normed:
        options["norm"] = False
    grid = Grid(channels=shape[1], stride=size[0] // shape[2], norm="position" if shape[1] >= 32 else "fixed")
    input: dict[str, Any] = {"size": size, "mean": config.mean, "std": config.std}
    input["interpolation"] = config.interpolation
    if not config.fixed_input_size and _takes_other_sizes(module, grid.stride, normed):
        input |= {"patch": grid.stride, "dynamic": True}
    return Variant(
        summary=f"timm's {model}."[:80],
        input=Input(**input),
        outputs={"patches": grid},
        weights=Weights(
            repo=config.hf_hub_id,
            file=config.hf_hub_filename or "model.safetensors",
            license=license,
            license_url=f"https://huggingface.co/{config.hf_hub_id}",
            commercial=commercial,
        ),
        cost=Cost(params=sum(parameter.numel() for parameter in module.parameters()), flops=flops),
        options=options,
    )


def _config(name: str) -> PretrainedCfg:
    architecture, tag = split_model_name_tag(name)
    if not is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(pretrained=False), n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UnknownExpertError(f"timm {timm.__version__} has no model {name!r}; {hint}see timm.list_models()")
    known = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in known:
        raise UnknownExpertError(
            f"timm's {architecture!r} has no weights {tag!r}; it has: {', '.join(known) or 'none'}"
        )
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise UnknownExpertError(f"timm declares no weights for {name!r}; choose a model that has some")
    return config


def _in_whole_patches(module: TimmBackbone, config: PretrainedCfg) -> tuple[int, int]:
    """Return the input's height and width; of a network of one size in whole patches, 378 for 384 and 14.

    One whose patches do not divide its image leaves its last rows and columns unread. With fewer pixels it has as many
    patches and the same positions, and its map is one of the whole view.
    """
    height, width = config.input_size[1:]
    patch: Any = getattr(getattr(module.trunk, "patch_embed", None), "patch_size", None)
    if not config.fixed_input_size or not isinstance(patch, tuple):
        return height, width
    return height // patch[0] * patch[0], width // patch[1] * patch[1]


def _on_meta(model: str, arguments: Mapping[str, Any]) -> TimmBackbone:
    try:
        with torch.device("meta"):
            return TimmBackbone(model, arguments).eval()
    except Exception as error:  # some cannot be built without numbers, or have no forward_intermediates
        raise _no_map(model, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error


def _look(
    model: str, module: TimmBackbone, size: tuple[int, int], *, fixed: bool
) -> tuple[tuple[int, int], tuple[int, ...], int, bool]:
    """Return the input size, the map's shape, its cost, and whether it passes the backbone's last norm."""
    stages: Any = module.trunk.feature_info
    reduction = int(stages[-1]["reduction"])
    height, width = size
    if not fixed:
        # Sides that the last stage does not divide would leave its map a little larger than the image.
        height, width = -(-height // reduction) * reduction, -(-width // reduction) * reduction
    found, normed, problem = None, True, ""
    for normed in (True, False):
        try:
            found = _run(module, (height, width), normed)
            break
        except Exception as error:  # a few have no norm to apply and say so by an assertion
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if found is None:
        raise _no_map(model, problem)
    shape, flops = found
    stride = height // shape[2] if len(shape) == 4 else 0
    # A stride above the reduction is that of unpadded convolutions, which do not see the border.
    if not 0 < stride <= reduction or (shape[2] * stride, shape[3] * stride) != (height, width):
        raise _no_map(model, f"{list(shape)} for {height}x{width} pixels")
    return (height, width), shape, flops, normed


def _run(module: TimmBackbone, size: tuple[int, ...], normed: bool) -> tuple[tuple[int, ...], int]:
    module.norm = normed
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shape = tuple(module(torch.empty(1, 3, *size, device="meta"))["patches"].shape)
    return shape, counter.get_total_flops()


def _takes_other_sizes(module: TimmBackbone, stride: int, normed: bool) -> bool:
    try:
        shape, _ = _run(module, (5 * stride, 8 * stride), normed)
    except Exception:  # what a network of one size raises at another
        return False
    return shape[2:] == (5, 8)


def _no_map(model: str, seen: str) -> UnknownExpertError:
    return UnknownExpertError(f"timm's {model!r} gives no map of the whole image ({seen}); choose another backbone")
