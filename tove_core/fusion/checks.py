"""What a fusion is given, checked before anything is computed: features, masks, keys and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tove_core.errors import ConfigError, ContractError
from tove_core.naming import CLIP


def clip_tokens(features: Mapping[str, Tensor]) -> Tensor:
    """Return v [B, N, D] of the features that `ToveModel.encode` gives.

    Raises:
        ContractError: they are no mapping, or v is missing, of another shape, or of whole numbers.
    """
    tokens = features.get(CLIP) if isinstance(features, Mapping) else None
    if not isinstance(tokens, Tensor) or tokens.ndim != 3 or not tokens.is_floating_point():
        raise ContractError(
            f"CLIP's tokens are {described(tokens)} in the features ({type(features).__name__}); give what "
            f"ToveModel.encode returned, with floats [B, N, D] under {CLIP!r}"
        )
    return tokens


def check_width(tokens: Tensor, width: int) -> None:
    """Refuse tokens of another CLIP than a fusion was built for.

    Raises:
        ContractError: they are not [B, N, width].
    """
    if tokens.ndim != 3 or tokens.shape[2] != width:
        raise ContractError(
            f"CLIP's tokens are {described(tokens)}; wanted [B, N, {width}], of the CLIP the fusion was built for"
        )


def described(value: object) -> str:
    """Return how an error names what stands where floats should: their shape, a type, or that nothing is there."""
    if isinstance(value, Tensor):
        return f"{'' if value.is_floating_point() else f'{value.dtype} '}{tuple(value.shape)}"
    return "missing" if value is None else f"of type {type(value).__name__}"


def check_options(mask: object, keys: object, noise: float, batch: int, experts: Sequence[str]) -> None:
    """Refuse a mask, keys or noise that do not fit a batch.

    Args:
        batch: B.
        experts: the K columns of a mask.

    Raises:
        ConfigError: one is of another shape or type, or there is noise without keys.
    """
    if mask is not None and not _is(mask, (batch, len(experts)), [torch.bool]):
        columns = f"a column for each of {', '.join(experts)}" if experts else "no column, there being no expert"
        raise ConfigError(f"the mask is {_with_type(mask)}; wanted [{batch}, {len(experts)}], {columns}, as torch.bool")
    if keys is not None and not _is(keys, (batch,), [torch.int64, torch.int32]):
        raise ConfigError(
            f"the keys are {_with_type(keys)}; wanted torch.int64 [{batch}], one for each sample, as "
            "tove_core.fusion.noise.sample_keys gives them"
        )
    if not noise >= 0:  # false for NaN too
        raise ConfigError(f"noise is {noise!r}; give a standard deviation, 0 for none")
    if noise > 0 and keys is None:
        raise ConfigError(f"gate noise {noise} was asked for without keys; give one integer per sample")


def _is(value: object, shape: tuple[int, ...], types: Sequence[torch.dtype]) -> bool:
    return isinstance(value, Tensor) and tuple(value.shape) == shape and value.dtype in types


def _with_type(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
