"""The tokenizer of an exported text side: one `tokenizer.json` that gives full rows of the model's own ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tove_core.errors import ConfigError
from tove_core.export.hf_dir import own_tokenizer
from tove_core.tower.base import Tower
from tove_core.tower.hf import HfTower
from tove_core.tower.open_clip import OpenClipTower

TOKENIZER_FILE = "tokenizer.json"


def why_no_text(tower: Tower) -> str | None:
    """Return in words why a tower has no text side that can be written; None where it may have one."""
    if not isinstance(tower, (OpenClipTower, HfTower)) or tower.text_width is None:
        return "the CLIP has no text tower"
    return None


def save_tokenizer(tower: Any, texts: Sequence[str], folder: Path) -> str | None:
    """Write the tokenizer, set to cut and pad as the tower does, and try it on `texts`.

    It needs Hugging Face's `tokenizers` alone, which is there for Rust, JavaScript, C and others.

    Returns:
        Why there is none, in words; then nothing was written. None where it gives the tower's ids.
    """
    try:
        wanted = tower.token_ids(list(texts))
        tower.embed_text(list(texts[:1]))
        given = tower.tokenizer if isinstance(tower, HfTower) else own_tokenizer(tower)
    except ConfigError as error:
        return str(error)
    backend = getattr(given, "backend_tokenizer", None)
    if backend is None:
        return "its tokenizer has no form that Hugging Face's tokenizers reads"
    # Another one from its text: set to cut and pad, the model's own would go on doing so.
    found = Tokenizer.from_str(backend.to_str())
    length, pad = len(wanted[0]), _padding(tower, given)
    found.enable_truncation(length)
    found.enable_padding(length=length, pad_id=pad, pad_token=str(found.id_to_token(pad) or ""))
    found.save(str(folder / TOKENIZER_FILE))
    again = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    for text, ids in zip(texts, wanted, strict=True):
        if again.encode(text).ids != ids:
            (folder / TOKENIZER_FILE).unlink()
            return f"its tokenizer gives other ids for {text!r:.60} in the form that Hugging Face's tokenizers reads"
    return None


def _padding(tower: Any, given: Any) -> int:
    # open_clip's own tokenizer fills up with zeros, whatever that token is.
    own = isinstance(tower, OpenClipTower) and not tower.model_cfg["text_cfg"].get("hf_tokenizer_name")
    return 0 if own else int(given.pad_token_id or 0)
