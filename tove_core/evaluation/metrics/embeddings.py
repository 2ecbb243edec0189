"""Scores of embeddings, a CLIP's images against texts: zero-shot classes, retrieval and CLIPScore."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_core.errors import DataError
from tove_core.evaluation.metrics.score import Score, mean_score

RECALL_AT = (1, 5, 10)
_IMAGES_AT_ONCE = 1024


def class_vectors(texts: Tensor) -> Tensor:
    """Return one unit vector per class [C, E] from the embeddings of its prompts [C, T, E].

    Each prompt is brought to unit length, then their mean is, as in CLIP (Radford et al., ICML 2021) and open_clip.
    """
    return F.normalize(F.normalize(texts.float(), dim=-1).mean(dim=1), dim=-1)


def zero_shot_accuracy(
    images: Tensor, classes: Tensor, labels: Sequence[int], ids: Sequence[str], top: Sequence[int] = (1, 5)
) -> tuple[Score, ...]:
    """Return top-k accuracy, 0 to 1, of giving each image the classes nearest by cosine; k above C is left out.

    Args:
        images: embeddings [M, E].
        classes: unit vectors [C, E], as `class_vectors` gives them.
        labels: number of each image's class.
        ids: name of each image.
        top: values of k.

    Raises:
        DataError: sizes do not fit, an embedding is not finite, or a label is no class.
    """
    _check(images, classes, len(labels), ids)
    if outside := [ids[i] for i, label in enumerate(labels) if not 0 <= label < len(classes)]:
        raise DataError(
            f"{len(outside)} of {len(ids)} images have a label that is none of {len(classes)} classes "
            f"(first: {outside[0]!r}); name every class"
        )
    ranks = torch.cat(
        [
            _rank(F.normalize(images[part].float(), dim=-1) @ classes.float().T, torch.tensor(labels)[part])
            for part in _parts(len(images))
        ]
    ).tolist()
    kept = [k for k in top if k <= len(classes)]
    return tuple(mean_score(f"top-{k}", dict(zip(ids, [float(r < k) for r in ranks], strict=True))) for k in kept)


def retrieval(
    images: Tensor,
    texts: Tensor,
    image_of: Sequence[int],
    image_ids: Sequence[str],
    text_ids: Sequence[str],
    at: Sequence[int] = RECALL_AT,
) -> dict[str, Score]:
    """Return recall at k, 0 to 1, from images to texts and back, by cosine.

    From an image a hit is one of its own texts among the k nearest (of five captions any); from a text, its image.

    Args:
        images: embeddings [M, E].
        texts: embeddings [T, E].
        image_of: for each text the number of its image.
        image_ids: name of each image.
        text_ids: name of each text.
        at: values of k; those above the number of candidates are left out.

    Raises:
        DataError: sizes do not fit, an embedding is not finite, or an image has no text.
    """
    _check(images, texts, len(image_ids), image_ids)
    owner = torch.tensor(list(image_of))
    if len(owner) != len(texts) or len(text_ids) != len(texts) or (len(owner) and int(owner.max()) >= len(images)):
        raise DataError(f"{len(texts)} texts come with {len(owner)} images and {len(text_ids)} ids; give one for each")
    bare = sorted(set(range(len(images))) - set(owner.tolist()))
    if bare:
        raise DataError(f"{len(bare)} of {len(images)} images have no text (first: {image_ids[bare[0]]!r}); drop them")
    pictures, words = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    to_text, to_image = [], []
    for part in _parts(len(images)):
        logits = pictures[part] @ words.T
        own = owner[None, :] == torch.arange(len(images))[part, None]
        best = logits.masked_fill(~own, -torch.inf).argmax(dim=1)
        to_text.append(_rank(logits, best, ignore=own))
    for part in _parts(len(texts)):
        to_image.append(_rank(words[part] @ pictures.T, owner[part]))
    return {
        **_recalls("image to text", torch.cat(to_text).tolist(), image_ids, [k for k in at if k <= len(texts)]),
        **_recalls("text to image", torch.cat(to_image).tolist(), text_ids, [k for k in at if k <= len(images)]),
    }


def clip_score(images: Tensor, texts: Tensor, ids: Sequence[str]) -> Score:
    """Return CLIPScore, 2.5 · max(cos, 0), 0 to 2.5 (Hessel et al., EMNLP 2021).

    The texts must have been embedded with the paper's prefix, "A photo depicts "; and not with the CLIP that was
    trained on what is scored. Others print 100 · max(cos, 0) without the prefix under the same name.

    Args:
        images: embeddings [M, E].
        texts: embeddings [M, E] of what was said about each.
        ids: name of each pair.

    Raises:
        DataError: sizes do not fit, or an embedding is not finite.
    """
    _check(images, texts, len(texts), ids)
    cosines = (F.normalize(images.float(), dim=-1) * F.normalize(texts.float(), dim=-1)).sum(dim=-1)
    samples = {name: 2.5 * max(0.0, value) for name, value in zip(ids, cosines.tolist(), strict=True)}
    return mean_score("CLIPScore (2.5 max(cos, 0))", samples, most=2.5)


def _rank(logits: Tensor, wanted: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Return how many columns stand before the wanted one; of equals the first column does, as in a stable sort."""
    score = logits.gather(1, wanted[:, None])
    earlier = torch.arange(logits.shape[1])[None, :] < wanted[:, None]
    before = (logits > score) | ((logits == score) & earlier)
    return (before & ~ignore if ignore is not None else before).sum(dim=1)


def _recalls(way: str, ranks: Sequence[int], ids: Sequence[str], at: Sequence[int]) -> Mapping[str, Score]:
    names = [f"{way} R@{k}" for k in at]
    hits = ({name: float(rank < k) for name, rank in zip(ids, ranks, strict=True)} for k in at)
    return {name: mean_score(name, samples) for name, samples in zip(names, hits, strict=True)}


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _IMAGES_AT_ONCE) for start in range(0, count, _IMAGES_AT_ONCE)]


def _check(one: Tensor, other: Tensor, wanted: int, ids: Sequence[str]) -> None:
    shapes = [list(one.shape), list(other.shape)]
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or not len(one) or not len(other):
        raise DataError(f"embeddings have the shapes {shapes}, but [M, E] and [T, E] are wanted; embed with one model")
    if len(one) != wanted or len(ids) != len(one) or len(set(ids)) != len(ids):
        raise DataError(
            f"{len(one)} embeddings come with {wanted} targets and {len(set(ids))} different ids; give one for each"
        )
    if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
        raise DataError("an embedding is not finite; look at the model that gave it")
