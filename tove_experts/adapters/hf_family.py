"""Describes any vision backbone of transformers, from its repository or folder: what `hf-backbone:NAME` resolves to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tove_core.errors import ConfigError
from tove_core.hub.download import fetch_file
from tove_core.hub.reference import resolve_folder
from tove_core.hub.view import resample
from tove_core.spec import Cost, Grid, Input, Variant, Weights
from tove_experts.adapters.hf_backbone import HfBackbone

INTERPOLATION = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which image processors use."""

MOST_PREFIX = 16
"""More tokens than this before the patches are no class and register tokens, but a layout that is not known here."""


def member(name: str) -> Variant:
    """Return the variant for a hub id or a folder that holds `config.json` and an image processor's configuration.

    Only `config.json` and `preprocessor_config.json` are read; a hub repository is pinned by it. Code of a repository
    is never run.

    Raises:
        ConfigError: it is neither, or no vision backbone that transformers itself knows.
        WeightsError: a file cannot be fetched.
    """
    folder = resolve_folder(name)
    place = folder if folder is not None else _fetched(name)
    config = _in_whole_patches(_config(name, place))
    processor = _processor(name, place)
    input = _input(name, processor, config)
    bgr = {"bgr": True} if _wants_bgr(name, processor, input) else {}
    outputs, cost = _measure(name, config, input)
    terms: dict[str, Any] = {"license": "LicenseRef-unknown"}  # a configuration does not state one
    if folder is None:
        weights = Weights(repo=name, license_url=f"https://huggingface.co/{name}", **terms)
    else:
        weights = Weights(folder=str(folder), **terms)
    return Variant(
        summary=f"{config['model_type']} of transformers."[:80],
        input=input,
        outputs=outputs,
        weights=weights,
        cost=cost,
        options={"config": config, **bgr},
    )


def _fetched(repo: str) -> Path:
    fetch_file(repo, "preprocessor_config.json")
    return fetch_file(repo, "config.json").parent


def _config(name: str, place: Path) -> dict[str, Any]:
    path = place / "config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name!r} has no readable config.json ({error}); give a repository of transformers"
        ) from error
    kind = given.get("model_type") if isinstance(given, dict) else None
    if kind not in CONFIG_MAPPING:
        what = f"model_type {kind!r}" if kind else "no model_type"
        raise ConfigError(
            f"{name!r} has {what} in config.json, which transformers {transformers.__version__} does not know; code of "
            f"repositories is never run, choose another backbone, or 'timm:NAME' for one of timm"
        )
    config = transformers.AutoConfig.for_model(**given)
    # Models of image and text: the part that sees.
    return getattr(config, "vision_config", config).to_dict()


def _in_whole_patches(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with sides that are whole patches, the largest below its own: 378 for 384 and 14.

    A model whose patches do not divide its image leaves its last rows and columns unread. With fewer pixels it has as
    many patches and the same positions, and its map is one of the whole view.
    """
    size, patch = config.get("image_size"), config.get("patch_size")
    if not isinstance(patch, int) or size is None:
        return config
    if isinstance(size, int):
        return config | {"image_size": _whole(size, patch)}
    return config | {"image_size": [_whole(side, patch) for side in size]}


def _whole(side: int, patch: int) -> int:
    return max(1, side // patch) * patch


def _processor(name: str, place: Path) -> Any:
    if not (place / "preprocessor_config.json").is_file():
        raise ConfigError(
            f"{name!r} has no preprocessor_config.json, which tells the normalisation; save its image processor there"
        )
    return transformers.AutoImageProcessor.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _input(name: str, processor: Any, config: dict[str, Any]) -> Input:
    resample = getattr(processor, "resample", None)
    if int(resample if resample is not None else -1) not in INTERPOLATION:
        raise ConfigError(f"{name!r} is resampled by {resample!r}; only bilinear (2) and bicubic (3) are offered")
    normalised = processor.do_normalize
    return Input(
        size=_size(name, processor, config),
        mean=tuple(processor.image_mean) if normalised else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if normalised else (1.0, 1.0, 1.0),
        range=(0.0, round(255 * processor.rescale_factor, 6) if processor.do_rescale else 255.0),
        interpolation=INTERPOLATION[int(resample)],  # type: ignore[arg-type]  # the two names Input allows
    )


def _wants_bgr(name: str, processor: Any, input: Input) -> bool:
    """Return whether a model's own processor gives it the channels in the order B, G, R, as MobileViT's does.

    A processor may do more to pixels than the keys say that `_input` reads, so it is asked for those of an image.

    Raises:
        ConfigError: they are others than `input` gives, in either order.
    """
    height, width = input.size
    image = (torch.arange(height * width * 3) * 7 % 256).to(torch.uint8).reshape(height, width, 3)
    try:
        given = processor(
            Image.fromarray(image.numpy()), do_resize=False, do_center_crop=False, do_pad=False, return_tensors="pt"
        )["pixel_values"]
    except Exception:  # one that gives something else than images, which its model then shows to be no backbone
        return False
    seen, far = resample(image.permute(2, 0, 1), "squash", input)[None], 1e-3 * input.range[1]
    if given.shape != seen.shape or torch.allclose(given, seen, rtol=1e-3, atol=far):
        return False
    if torch.allclose(given, seen.flip(1), rtol=1e-3, atol=far):
        return True
    raise ConfigError(
        f"{name!r} has an image processor ({type(processor).__name__}) that does more to pixels than to rescale and "
        "normalise them, which is not offered; choose another backbone, or one of 'timm:NAME'"
    )


def _size(name: str, processor: Any, config: dict[str, Any]) -> tuple[int, int]:
    """Return the model's own size, on which its positions depend, else the processor's: height and width."""
    own = config.get("image_size")
    if isinstance(own, int):
        return own, own
    if isinstance(own, (list, tuple)) and len(own) == 2:
        return own[0], own[1]
    for size in (getattr(processor, "crop_size", None), processor.size):
        known = {key: value for key, value in dict(size or {}).items() if value}
        if "height" in known and "width" in known:
            return known["height"], known["width"]
        if "shortest_edge" in known:
            return known["shortest_edge"], known["shortest_edge"]
    raise ConfigError(f"{name!r} states no image size in config.json or preprocessor_config.json; give it there")


def _measure(name: str, config: dict[str, Any], input: Input) -> tuple[dict[str, Any], Cost]:
    """Run the architecture without numbers, to see what it gives and costs."""
    height, width = input.size
    pixels = torch.empty(1, 3, height, width, device="meta")
    try:
        with torch.device("meta"):
            module = HfBackbone(config, stride=1).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            state = module.trunk(pixel_values=pixels).last_hidden_state
        shape = tuple(state.shape)
    except Exception as error:  # whatever a model that is no vision backbone raises on pixels
        raise ConfigError(
            f"{name!r} ({config['model_type']}) gives no last_hidden_state for pixels alone "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); choose a vision backbone"
        ) from error
    channels, stride = _layout(name, shape, input.size, config.get("patch_size"))
    grid = Grid(channels=channels, stride=stride, norm="position" if channels >= 32 else "fixed")
    params = sum(parameter.numel() for parameter in module.parameters())
    return {"patches": grid}, Cost(params=params, flops=counter.get_total_flops())


def _layout(name: str, shape: tuple[int, ...], size: tuple[int, int], patch: Any) -> tuple[int, int]:
    """Return channels and stride of a state [1, C, h, w] or [1, tokens, C]."""
    height, width = size
    if len(shape) == 4:
        channels, stride = shape[1], height // shape[2]
        fits = (shape[2] * stride, shape[3] * stride) == size
    else:
        tokens, channels = shape[1:]
        # A plain transformer keeps its patches; one in stages merges them and has no tokens beside them.
        stride = patch if isinstance(patch, int) and 0 <= tokens - height * width // patch**2 <= MOST_PREFIX else (
            math.isqrt(height * width // tokens)
        )  # fmt: skip
        places = (height // stride) * (width // stride) if stride else 0
        fits = bool(stride) and not height % stride and not width % stride and 0 <= tokens - places <= MOST_PREFIX
    if not fits:
        raise ConfigError(
            f"{name!r} gives {list(shape)} for {height}x{width} pixels, which is no map of the whole image; choose a "
            "backbone whose image is a multiple of its stride, such as 'siglip2' or 'dinov2', or one of 'timm:NAME'"
        )
    return channels, stride
