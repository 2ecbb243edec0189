"""Labels and words as unit vectors of the frozen CLIP's text tower, each string embedded once."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_core.errors import ConfigError
from tove_core.hub.autocast import no_autocast
from tove_core.tower.base import Tower

CACHED = 32_768
"""Strings kept: 96 MiB at 768 channels."""

AT_ONCE = 32
_PROBE = ["a photo of 2 cats, naïve"]


class TextVectors:
    """Embeds strings with a tower's text side; remembers the last `limit` different ones.

    A string's vector does not depend on what it is embedded together with: bit for bit on the CPU, where strings go one
    at a time (batches gain little there), and elsewhere as far as the device computes a row alike wherever it stands,
    because every batch there has the same shape.

    Args:
        tower: has a text tower and its tokenizer, which cuts texts that are too long.
        limit: strings remembered; the one not asked for longest is forgotten first.
    """

    def __init__(self, tower: Tower, limit: int = CACHED) -> None:
        self.tower = tower
        self.limit = limit
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def width(self) -> int | None:
        """E, the channels of a vector; None where the tower has no text side."""
        return self.tower.text_width

    def __len__(self) -> int:
        """Return how many strings are remembered."""
        return len(self._known)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return [T, E], float32 on the tower's device: unit length, zero for blank texts.

        Texts are compared and embedded in Unicode's composed form (NFC) without surrounding blanks; characters that no
        encoding can write (lone surrogates) become question marks.

        Raises:
            ConfigError: the tower has no text side, or its tokenizer cannot be loaded.
        """
        width = self.width
        if width is None:
            raise ConfigError(
                f"{self.tower.reference!r} has no text tower to embed labels and words with; choose a whole CLIP"
            )
        cleaned = [clean(text) for text in texts]
        found = {text: self._known[text] for text in cleaned if text in self._known}
        new = [text for text in dict.fromkeys(cleaned) if text and text not in found]
        found |= dict(zip(new, self._embed(new), strict=True))
        for text, vector in found.items():
            self._known[text] = vector
            self._known.move_to_end(text)
        while len(self._known) > self.limit:
            self._known.popitem(last=False)
        blank = torch.zeros(width)
        rows = [found.get(text, blank) for text in cleaned]
        return (torch.stack(rows) if rows else blank[None, :][:0]).to(self.tower.device)

    def _embed(self, texts: list[str]) -> list[Tensor]:
        size = 1 if self.tower.device.type == "cpu" else AT_ONCE
        rows: list[Tensor] = []
        for start in range(0, len(texts), size):
            chunk = texts[start : start + size]
            filled = chunk + [""] * (size - len(chunk))
            # The caller's autocast must not decide what a word is.
            with no_autocast(self.tower.device.type):
                vectors = F.normalize(self.tower.embed_text(filled).float(), dim=-1)
            rows += vectors[: len(chunk)].cpu().unbind()
        # Rows of one large tensor would keep all of it alive.
        return [row.clone() for row in rows]


def clean(text: str) -> str:
    """Return a text as it is embedded: composed, without surrounding blanks, encodable."""
    return unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode("utf-8")).strip()


def text_fingerprint(tower: Tower) -> str:
    """Return a hash (sha256, hex) of what decides a tower's text vectors: its text weights and its tokenizer."""
    digest = hashlib.sha256(repr(tower.token_ids(_PROBE)).encode())
    seen = {id(tensor) for tensor in [*tower.vision.parameters(), *tower.vision.buffers()]}
    for name, tensor in sorted([*tower.named_parameters(), *tower.named_buffers()]):
        if id(tensor) not in seen:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
