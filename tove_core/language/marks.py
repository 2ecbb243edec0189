"""What a prompt must be: a text that can be written, with marks for where its images stand. No torch."""

from __future__ import annotations

IMAGE = "<image>"
"""The place of an image in text; LLaVA's data and its processor use the same word."""


def half_character(text: str) -> tuple[str, int] | None:
    r"""Return the first half of a character (a lone surrogate, "\ud800") as it is spelt, and its place; None: none."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(text[error.start]):x}", error.start
    return None


def wrong_text(text: object, what: str = "prompt") -> str | None:
    """Return the sentence on something that cannot be tokenised, called `what`; None where it can."""
    if not isinstance(text, str):
        return f"a {what} is {text!r:.60}, but a text is wanted; give one for each image"
    if half := half_character(text):
        spelt, place = half
        return f"{what} {text!r:.80} has half a character ({spelt}, a lone surrogate) at place {place}; repair it"
    return None


def wrong_marks(prompt: str, images: int) -> str | None:
    """Return the sentence on a prompt that is no text, or whose marks are not as many as its images; None: it fits."""
    if fault := wrong_text(prompt):
        return fault
    marks = prompt.count(IMAGE)
    if marks in (0, images):
        return None
    return (
        f"prompt {prompt!r:.80} holds {IMAGE} {marks} times for {images} image{'s' * (images != 1)}; "
        "mark each image's place once, in their order, or none"
    )
