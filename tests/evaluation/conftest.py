from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tove_core.config import DataConfig
from tove_core.data.readers import read

Constructed = Callable[[str], tuple[dict[str, str], dict[str, list[str]]]]


@pytest.fixture
def constructed(shared_data: Callable[[str], Path]) -> Constructed:
    """Give `constructed(made)`: candidates made from COCO's captions, and the captions they are scored by."""
    path = shared_data("coco-mini") / "captions.json"
    references = {s.id: list(s.targets) for s in read(DataConfig(reader="coco-captions", path=path))}
    first = {name: texts[0] for name, texts in references.items()}

    def candidates(made: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        draw = random.Random(made)
        turned = list(first.values())
        draw.shuffle(turned)
        found = {
            "identical": first,
            "shuffled": dict(zip(first, turned, strict=True)),
            "truncated": {name: text[: draw.randint(1, len(text))] for name, text in first.items()},
            "empty": dict.fromkeys(first, ""),
            "unicode": {name: f"“{text}” — café 東京 😀 naïve…" for name, text in first.items()},
            "one-word": {name: draw.choice(text.split()) for name, text in first.items()},
        }
        return found[made], references

    return candidates
