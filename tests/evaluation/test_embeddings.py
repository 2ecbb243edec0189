from __future__ import annotations

import open_clip
import pytest
import torch
from torch.nn import functional as F

from tove_core.errors import DataError
from tove_core.evaluation.metrics.embeddings import class_vectors, clip_score, retrieval, zero_shot_accuracy


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(7)


def names(count, letter="i"):
    return [f"{letter}{n}" for n in range(count)]


class Fake:
    """What open_clip's builder asks of a model and a tokenizer: every text has its own row of a table."""

    def __init__(self, table):
        self.table, self.known = table, {}

    def __call__(self, texts):
        return torch.tensor([self.known.setdefault(text, len(self.known)) for text in texts])

    def encode_text(self, rows, normalize=False):
        return F.normalize(self.table[rows], dim=-1) if normalize else self.table[rows]


def test_class_vectors_are_those_of_open_clip(draw):
    table = torch.randn(21, 13, generator=draw)
    fake = Fake(table)
    theirs = open_clip.build_zero_shot_classifier(fake, fake, names(7, "c"), ["a {}.", "{}?", "two {}"], 2)
    assert torch.allclose(class_vectors(table.reshape(7, 3, 13)), theirs.T, atol=1e-6)


def test_zero_shot_accuracy_is_that_of_open_clip(draw, monkeypatch):
    evaluation = pytest.importorskip("open_clip_train.zero_shot")
    # It calls float() on an array of one, which NumPy 2.4 refuses.
    monkeypatch.setattr(evaluation, "float", lambda value: value.item(), raising=False)
    images, texts = torch.randn(101, 13, generator=draw), torch.randn(7, 3, 13, generator=draw)
    labels = torch.randint(7, (101,), generator=draw)
    classes = class_vectors(texts)
    ours = zero_shot_accuracy(images, classes, labels.tolist(), names(101))
    logits = 100.0 * F.normalize(images, dim=-1) @ classes.T
    theirs = [hits / 101 for hits in evaluation.accuracy(logits, labels, topk=(1, 5))]
    assert [score.value for score in ours] == pytest.approx(theirs)
    assert [score.name for score in ours] == ["top-1", "top-5"]
    assert [s.name for s in zero_shot_accuracy(images, classes[:3], [0] * 101, names(101))] == ["top-1"]


def test_retrieval_is_that_of_open_clip_with_one_text_per_image(draw):
    train = pytest.importorskip("open_clip_train.train")
    images = F.normalize(torch.randn(57, 9, generator=draw), dim=-1)
    texts = F.normalize(images + 0.8 * torch.randn(57, 9, generator=draw), dim=-1)
    theirs = train.get_clip_metrics(images, texts, torch.tensor(100.0))
    ours = retrieval(images * 3, texts, range(57), names(57), names(57, "t"))
    for way, name in (("image to text", "image_to_text"), ("text to image", "text_to_image")):
        for k in (1, 5, 10):
            assert ours[f"{way} R@{k}"].value == pytest.approx(theirs[f"{name}_R@{k}"])


def test_any_of_an_images_texts_is_a_hit_and_others_of_its_own_do_not_push_it_down(draw):
    images, texts = torch.randn(11, 5, generator=draw), torch.randn(55, 5, generator=draw)
    owner = [n % 11 for n in range(55)]
    found = retrieval(images, texts, owner, names(11), names(55, "t"))
    logits = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    for k in (1, 5, 10):
        top = logits.topk(k).indices.tolist()
        hits = [float(any(owner[t] == n for t in row)) for n, row in enumerate(top)]
        assert list(found[f"image to text R@{k}"].samples.values()) == hits
        top = logits.T.topk(k).indices.tolist()
        hits = [float(owner[t] in row) for t, row in enumerate(top)]
        assert list(found[f"text to image R@{k}"].samples.values()) == hits


def test_equal_cosines_go_to_the_one_that_comes_first():
    images = torch.ones(3, 2)
    found = retrieval(images, images, range(3), names(3), names(3, "t"), at=(1, 2))
    assert list(found["text to image R@1"].samples.values()) == [1, 0, 0]
    assert found["text to image R@2"].value == pytest.approx(2 / 3)


def test_clip_score_is_two_and_a_half_cosines_and_never_negative():
    images, texts = torch.tensor([[2.0, 0], [1, 1], [1, 0]]), torch.tensor([[3.0, 0], [1, 0], [-1, 0.1]])
    score = clip_score(images, texts, names(3))
    assert list(score.samples.values()) == pytest.approx([2.5, 2.5 / 2**0.5, 0])
    assert "2.5 max(cos, 0)" in score.name


def test_what_does_not_fit_is_refused(draw):
    images = torch.randn(3, 5, generator=draw)
    with pytest.raises(DataError, match="first: 'i1'"):
        zero_shot_accuracy(images, images, [0, 3, 1], names(3))
    with pytest.raises(DataError, match=r"\[3, 5\], \[3, 4\]"):
        clip_score(images, images[:, :4], names(3))
    with pytest.raises(DataError, match="2 different ids"):
        clip_score(images, images, ["a", "b", "b"])
    with pytest.raises(DataError, match="not finite"):
        clip_score(images, images * torch.nan, names(3))
    with pytest.raises(DataError, match=r"1 of 3 images have no text \(first: 'i2'\)"):
        retrieval(images, images, [0, 1, 1], names(3), names(3, "t"))
    with pytest.raises(DataError, match="give one for each"):
        retrieval(images, images, [0, 1], names(3), names(3, "t"))
