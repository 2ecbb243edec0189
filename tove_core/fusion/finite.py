"""Whether what was made of images is finite, and whose doing it is where it is not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from torch import Tensor

from tove_core.errors import DataError
from tove_core.naming import CLIP


def require_finite(tokens: Tensor, features: Mapping[str, Tensor], images: Sequence[object]) -> None:
    """Refuse tokens that are not finite. Whatever is not finite in an expert's features reaches the tokens, so that
    only these are read: a sum of them, once, which a GPU is waited for.

    Args:
        tokens: v' [B, N, D].
        features: what they were made of, v and every u_k [B, N, C_k] by name.
        images: B of them, as the caller gave them, for the message.

    Raises:
        DataError: they are not; the experts and the first image are named.
    """
    if tokens.sum().isfinite() or not (bad := _not_finite(tokens)):
        return
    experts = {name: _not_finite(values) for name, values in features.items()}
    names = ["CLIP" if name == CLIP else f"expert {name!r}" for name, rows in experts.items() if bad[0] in rows]
    image = f"image {bad[0] + 1} of {len(images)}"
    if isinstance(path := images[bad[0]], (str, os.PathLike)):
        image += f" ({path})"
    if not names:
        raise DataError(
            f"the fusion gives tokens that are not finite for {image}, though CLIP and the experts do not; load its "
            "checkpoint again, or give its parameters more precision"
        )
    raise DataError(
        f"{' and '.join(names)} gave values that are not finite for {image}; leave that image out, or detach the "
        "expert, or give it a dtype of more range"
    )


def _not_finite(values: Tensor) -> list[int]:
    """Return the rows of [B, ...] that hold infinities or NaN."""
    return (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
