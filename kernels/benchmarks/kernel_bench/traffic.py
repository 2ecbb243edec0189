"""The bytes that an operator has to move: every input once, every result once."""

from __future__ import annotations

GATES = 4  # bytes of a gate logit: float32


def mix_bytes(batch: int, tokens: int, width: int, experts: int, element: int) -> dict[str, int]:
    """Return the bytes of `gated_mix`: K + 2 tensors [B, N, D] forward, 2 K + 1 backward, and the gates.

    The gradient of the tokens is the result's own and costs nothing.
    """
    tensor, gates = batch * tokens * width * element, batch * tokens * experts * GATES
    return {"forward": (experts + 2) * tensor + gates, "backward": (2 * experts + 1) * tensor + 2 * gates}


def activation_bytes(batch: int, tokens: int, width: int, experts: int, element: int) -> dict[str, int]:
    """Return the bytes of `gated_activation_mix`: K + 1 tensors [B, N, H] forward, 2 K + 1 backward; gates, biases."""
    tensor, gates = batch * tokens * width * element, batch * tokens * experts * GATES
    biases = experts * width * GATES
    return {
        "forward": (experts + 1) * tensor + gates + biases,
        "backward": (2 * experts + 1) * tensor + 2 * gates + 2 * biases,
    }


def align_bytes(
    batch: int, channels: int, size: tuple[int, int], grid: tuple[int, int], fold: int, element: int
) -> dict[str, int]:
    """Return the bytes of `align_tokens`: the map once and the tokens once."""
    cells = size[0] * size[1] + grid[0] * grid[1] * fold * fold
    return {"forward": batch * channels * cells * element}
