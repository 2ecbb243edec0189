"""Marks in a prompt for where its images stand. No torch."""

from __future__ import annotations

IMAGE = "<image>"
"""The place of an image in text; LLaVA's data and its processor use the same word."""


def wrong_marks(prompt: str, images: int) -> str | None:
    """Return the sentence on a prompt whose marks are not as many as its images; None where they fit or are none."""
    marks = prompt.count(IMAGE)
    if marks in (0, images):
        return None
    return (
        f"prompt {prompt!r:.80} holds {IMAGE} {marks} times for {images} image{'s' * (images != 1)}; "
        "mark each image's place once, in their order, or none"
    )
