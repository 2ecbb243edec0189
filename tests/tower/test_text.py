from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tove_core.config import ClipConfig
from tove_core.errors import ConfigError
from tove_core.tower import load_tower
from tove_core.tower.text import TextVectors, clean, text_fingerprint

LABELS = ["a cat", "traffic light", "naïve café", "漢字", "🦒🦒", "a cat " * 40, "x"]


@pytest.fixture
def tower(open_clip_folder):
    """A tower whose text side knows every id of open_clip's tokenizer."""
    return load_tower(ClipConfig(name=f"local-dir:{open_clip_folder(text={'vocab_size': 49_408})[0]}"))


@pytest.fixture
def texts(tower) -> TextVectors:
    return TextVectors(tower)


def count_embedded(tower, monkeypatch) -> list[str]:
    seen: list[str] = []
    real = tower._embed_text

    def spy(texts: list[str]) -> Tensor:
        seen.extend(texts)
        return real(texts)

    monkeypatch.setattr(tower, "_embed_text", spy)
    return seen


def test_vectors_are_the_towers_own_at_unit_length(texts, tower):
    own = tower.embed_text(LABELS)
    got = texts(LABELS)
    assert got.shape == (len(LABELS), texts.width) and texts.width == 20
    torch.testing.assert_close(got, own / own.norm(dim=-1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert len({tuple(row) for row in got.tolist()}) == len(LABELS)


def test_a_string_has_one_vector_however_it_is_batched(tower):
    together = TextVectors(tower)(LABELS)
    alone = [TextVectors(tower)([label])[0] for label in LABELS]
    backwards = TextVectors(tower, limit=2)(LABELS[::-1]).flip(0)
    assert torch.equal(torch.stack(alone), together)
    assert torch.equal(backwards, together)


def test_blank_texts_are_zero_and_no_texts_are_none(texts, tower, monkeypatch):
    seen = count_embedded(tower, monkeypatch)
    assert torch.equal(texts(["", "  \n\t"]), torch.zeros(2, 20))
    assert texts([]).shape == (0, 20)
    assert seen == [] and len(texts) == 0


def test_each_string_is_embedded_once_and_the_oldest_is_forgotten(tower, monkeypatch):
    texts, seen = TextVectors(tower, limit=3), count_embedded(tower, monkeypatch)
    texts(["a", "b", "a", "c", " b "])
    texts(["a"])
    assert seen == ["a", "b", "c"]
    texts(["d"])  # b is the one not asked for longest
    assert len(texts) == 3
    texts(["a", "c", "d"])
    assert seen == ["a", "b", "c", "d"]
    assert texts(["b", "a", "c", "d", "e", "f"]).norm(dim=-1).allclose(torch.ones(6)) and len(texts) == 3


def test_strings_that_look_the_same_are_the_same_and_nothing_crashes(texts):
    composed, decomposed, broken = "é", "e\u0301", "half \ud83e of a pair"
    got = texts([composed, decomposed, broken, "\x00", "a\u200db"])
    assert torch.equal(got[0], got[1]) and got.isfinite().all()
    assert clean(broken) == "half ? of a pair"


def test_the_callers_autocast_changes_nothing(tower):
    plain = TextVectors(tower)(LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(TextVectors(tower)(LABELS), plain)


def test_vectors_want_no_gradient(texts):
    assert not texts(["a cat"]).requires_grad


def test_a_tower_without_text_is_refused(texts, tower, monkeypatch):
    monkeypatch.setattr(type(tower), "text_width", None)
    with pytest.raises(ConfigError, match="has no text tower to embed labels and words with; choose a whole CLIP"):
        texts(["a cat"])


def test_the_fingerprint_follows_text_weights_and_not_the_image_tower(tower):
    first = text_fingerprint(tower)
    other = copy.deepcopy(tower)
    assert text_fingerprint(other) == first and len(first) == 64
    with torch.no_grad():
        next(other.vision.parameters()).add_(1)
    assert text_fingerprint(other) == first
    with torch.no_grad():
        other.model.token_embedding.weight[0, 0] += 1
    assert text_fingerprint(other) != first
