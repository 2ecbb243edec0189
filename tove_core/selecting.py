"""A model with a selector: from CLIP's tokens to a choice for each image, and only the experts that were chosen.

B images, N tokens of CLIP's grid, D CLIP's width, K experts of the fusion, C_k an expert's aligned channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from tove_core.errors import ConfigError
from tove_core.fusion import Align, Fused
from tove_core.fusion.checks import clip_tokens
from tove_core.fusion.finite import require_finite
from tove_core.hub.expert import FrozenExpert
from tove_core.hub.images import read_image
from tove_core.hub.view import Seen
from tove_core.listed import listed
from tove_core.naming import CLIP
from tove_core.seeing import as_now, see

if TYPE_CHECKING:
    from tove_core.model import ToveModel


SELECT_ANEW = "training changes what experts save; run 'tove select' on what comes of it"
"""What a warning says where a selector is left behind."""


def choice(model: ToveModel, tokens: Tensor) -> Tensor:
    """Return which experts images deserve, bool [B, K] over `fusion.experts`, given their v [B, N, D].

    One that is off is never chosen; one that the selector does not know, because it joined later, always is.

    Raises:
        ConfigError: the model has no selector.
    """
    selector, fusion = model.selector, model.fusion
    if selector is None or fusion is None:
        raise ConfigError("the model has no selector and runs every expert on every image; 'tove select' trains one")
    chosen, every = selector.choose(tokens), torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    columns = [chosen.get(name, every) & (name not in fusion.off) for name in fusion.experts]
    return torch.stack(columns, 1)


def selected(model: ToveModel, images: Any) -> dict[str, Tensor]:
    """Return for each expert that is on which images it runs on; see `ToveModel.select`."""
    now = as_now(model)
    mask = choice(now, now.encode(images, only=[CLIP])[CLIP])
    return {name: mask[:, k] for name, k in _columns(now).items()}


def enhanced(model: ToveModel, images: Any) -> Fused:
    """Return tokens and gates of images, by the experts that are on when it is called, or chosen from these.

    Raises:
        DataError: an expert gives values that are not finite.
    """
    return looked(model, images)[1]


def looked(model: ToveModel, images: Any) -> tuple[dict[str, Tensor], Fused]:
    """Return what `encode_as_deployed` gives of images, and what is made of it; otherwise as `enhanced`."""
    now, seen = as_now(model), listed(images)
    features, mask = encode_as_deployed(now, seen)
    fused = now.fuse(features, mask=mask)
    require_finite(fused.tokens, features, seen)
    return features, fused


@torch.no_grad()
def encode_as_deployed(model: ToveModel, images: Sequence[Any]) -> tuple[dict[str, Tensor], Tensor | None]:
    """Run CLIP and the experts, where the model selects each on the images it was chosen for and no others.

    Args:
        images: B of them, as `ToveModel.encode` takes them.

    Returns:
        Features as `ToveModel.encode` gives them, zeros where an expert did not run, and the choice [B, K]; None: every
        expert that is on ran.

    Raises:
        ImageError: there is no image, or one cannot be read.
    """
    if not model.selects:
        return model.encode(images), None
    # Decoded once, though CLIP and the experts look at them one after the other.
    read = [one if isinstance(one, Seen) else read_image(one) for one in images]
    tokens = model.encode(read, only=[CLIP])[CLIP]
    mask = choice(model, tokens)
    return {CLIP: tokens} | _run_chosen(model, read, tokens, mask), mask


def _run_chosen(model: ToveModel, images: Sequence[Any], tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Return u_k [B, N, C_k] of every expert that is on, zeros for images it was not chosen for."""
    chosen = {name: mask[:, k].tolist() for name, k in _columns(model).items()}
    rows = {name: [i for i, on in enumerate(own) if on] for name, own in chosen.items()}
    wanted = [[name for name, own in chosen.items() if own[i]] for i in range(len(images))]
    seen = {i: model.preprocessor(names)([images[i]]) for i, names in enumerate(wanted) if names}
    pixels = {name: torch.cat([seen[i][name] for i in own]) for name, own in rows.items() if own}
    parts = {name: (cast(FrozenExpert, model.experts[name]), cast(Align, model.align[name])) for name in chosen}
    given = see(pixels, model.tower, {name: parts[name] for name in pixels})
    found = {}
    for name, (_, align) in parts.items():
        found[name] = tokens.new_zeros(*tokens.shape[:2], align.width)
        if name in given:
            found[name][rows[name]] = given[name]
    return found


def _columns(model: ToveModel) -> dict[str, int]:
    """Return the column of a mask of each expert that is on."""
    if model.fusion is None:
        return {}
    return {name: model.fusion.experts.index(name) for name in model.active_experts}


def fuse_images(model: ToveModel, features: Mapping[str, Tensor], mask: Tensor) -> Fused:
    """Enhance samples of M images each by a choice for each image.

    Args:
        features: v [B, M·N, D] and u_k [B, M·N, C_k], as `Examples.features` gives them.
        mask: [B·M, K] over `fusion.experts`.

    Returns:
        Tokens [B, M·N, D] and gates [B, M·N, K].
    """
    samples = len(clip_tokens(features))
    fused = model.fuse(of_images(model, features), mask=mask)
    gates = None if fused.gates is None else fused.gates.reshape(samples, -1, fused.gates.shape[-1])
    return Fused(fused.tokens.reshape(samples, -1, fused.tokens.shape[-1]), gates)


def of_images(model: ToveModel, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return features [B·M, N, C] of images for those [B, M·N, C] of samples with M images each."""
    return {name: values.reshape(-1, model.tower.tokens, values.shape[-1]) for name, values in features.items()}


def fuse_deployed(model: ToveModel, features: Mapping[str, Tensor]) -> Fused:
    """Enhance samples as the model does with images: by its choice where it selects, else by every expert."""
    if not model.selects:
        return model.fuse(features)
    tokens = of_images(model, {CLIP: clip_tokens(features)})[CLIP]
    return fuse_images(model, features, choice(model, tokens))


@contextmanager
def every_expert(model: ToveModel, doing: str) -> Iterator[None]:
    """Let a model take every expert for as long as it lasts, and say so where it would have selected.

    Args:
        doing: what is done meanwhile, at the beginning of a sentence.
    """
    if not model.selects:
        yield
        return
    warnings.warn(f"{doing} with every expert on every image, though the model selects experts", stacklevel=4)
    model.selecting = False
    try:
        yield
    finally:
        model.selecting = True
