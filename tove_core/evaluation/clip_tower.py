"""What a CLIP tower knows without training: zero-shot classes, retrieval, and CLIPScore of what others said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tove_core.checks import whole
from tove_core.data.broken import BrokenImages, try_image, usable
from tove_core.data.sample import Sample, distinct_images, load_image
from tove_core.errors import DataError
from tove_core.evaluation.metrics.embeddings import class_vectors, clip_score, retrieval, zero_shot_accuracy
from tove_core.evaluation.metrics.score import Score, check_pairs, first_ids
from tove_core.hub.view import Preprocessor, View
from tove_core.tower.base import Tower

TEMPLATES = ("a photo of a {}.",)
"""CLIP's plain prompt; published ImageNet figures average 80 of them (`open_clip.OPENAI_IMAGENET_TEMPLATES`)."""

CLIP_SCORE_PREFIX = "A photo depicts "

_OWN: Mapping[str, View] = {"shortest": "crop", "longest": "pad", "squash": "squash"}


def own_view(tower: Tower) -> View:
    """Return the view of an image that is the tower's own transform; of a padded one `Tower.fill` is the colour."""
    return _OWN[tower.resize_mode]


def readable(samples: Sequence[Sample], max_broken: float) -> list[Sample]:
    """Return the samples whose images can be read; the others are left out, with a warning.

    Args:
        samples: whose images are decoded, each once.
        max_broken: share of the images that may be unreadable.

    Raises:
        DataError: more are, or all.
    """
    images, rows = distinct_images(samples)
    broken = BrokenImages(len(images), max_broken)
    for row, image in enumerate(images):
        broken.kept(row, try_image(image))
    if not (found := usable(samples, rows, broken)):
        raise DataError(f"none of {len(images)} images can be read; 'tove data check' says why of each")
    return found


@torch.no_grad()
def embed_images(
    tower: Tower, samples: Sequence[Sample], *, view: View | None = None, batch_size: int = 64
) -> tuple[Tensor, list[int]]:
    """Return the embeddings [M, E] of the different images, on the CPU, and which of them is each sample's.

    Args:
        tower: embeds.
        samples: whose images are embedded, each once.
        view: the region that is seen; None: as the tower's own transform sees it.
        batch_size: images at a time.

    Raises:
        DataError: a sample has several images.
        ConfigError: the batch size is below 1.
    """
    batch_size = whole(batch_size, "batch_size", least=1)
    images, rows = distinct_images(samples)
    if several := [sample.id for sample, own in zip(samples, rows, strict=True) if len(own) != 1]:
        raise DataError(
            f"{len(several)} of {len(samples)} samples have several images ({first_ids(several)}); a CLIP tower is "
            "scored on one image each"
        )
    prepare = Preprocessor({"clip": tower.input}, view or own_view(tower), tower.fill if view is None else None)
    parts = [
        tower.embed(prepare([load_image(one) for one in images[start : start + batch_size]])["clip"].to(tower.device))
        for start in range(0, len(images), batch_size)
    ]
    return torch.cat(parts).float().cpu(), [row for (row,) in rows]


def zero_shot(
    tower: Tower,
    samples: Sequence[Sample],
    classes: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    view: View | None = None,
    batch_size: int = 64,
) -> tuple[Score, ...]:
    """Return top-1 and top-5 accuracy of a tower on samples whose first target is the name of their class.

    Raises:
        DataError: a target is no class, a class is named twice, or a template has no place for the name.
    """
    check_prompts(classes, templates)
    number = {name: index for index, name in enumerate(classes)}
    if odd := [sample.id for sample in samples if not sample.targets or sample.targets[0] not in number]:
        raise DataError(
            f"{len(odd)} of {len(samples)} samples have a target that is none of {len(classes)} classes "
            f"({first_ids(odd)}); name every class"
        )
    texts = tower.embed_text([template.format(name) for name in classes for template in templates]).cpu()
    vectors = class_vectors(texts.reshape(len(classes), len(templates), -1))
    images, rows = embed_images(tower, samples, view=view, batch_size=batch_size)
    labels = [number[sample.targets[0]] for sample in samples]
    return zero_shot_accuracy(images[rows], vectors, labels, [sample.id for sample in samples])


def check_prompts(classes: Sequence[str], templates: Sequence[str]) -> None:
    """Refuse classes and templates that `zero_shot` cannot use.

    Raises:
        DataError: there are none, a class is named twice, or a template has no place for the name.
    """
    if not classes:
        raise DataError("no class is named; name those the images may be of")
    if not templates:
        raise DataError("no template is given; give one such as 'a photo of a {}.'")
    if odd := [template for template in templates if template.count("{}") != 1]:
        raise DataError(f"the template {odd[0]!r} has no single {{}} for the name of the class; write one there")
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise DataError(f"the class {twice[0]!r} is named twice; name each class once")


def retrieve(
    tower: Tower, samples: Sequence[Sample], *, view: View | None = None, batch_size: int = 64
) -> dict[str, Score]:
    """Return recall at 1, 5 and 10 between the samples' images and all their texts, both ways, by name.

    Samples that share an image share their texts.
    """
    images, rows = embed_images(tower, samples, view=view, batch_size=batch_size)
    pairs = [(row, f"{sample.id}#{k}", text) for sample, row in zip(samples, rows, strict=True)
             for k, text in enumerate(sample.targets)]  # fmt: skip
    first: dict[int, str] = {}
    for sample, row in zip(samples, rows, strict=True):
        first.setdefault(row, sample.id)
    texts = tower.embed_text([text for _, _, text in pairs]).float().cpu()
    owners, names = [row for row, _, _ in pairs], [name for _, name, _ in pairs]
    return retrieval(images, texts, owners, [first[row] for row in range(len(images))], names)


def score_with_clip(
    tower: Tower,
    samples: Sequence[Sample],
    said: Mapping[str, str],
    *,
    view: View | None = None,
    batch_size: int = 64,
) -> Score:
    """Return CLIPScore of captions; the tower must not be the one whose model said them, nor trained on it.

    Raises:
        DataError: predictions are missing or extra.
    """
    check_pairs(said, {sample.id: sample.targets for sample in samples})
    images, rows = embed_images(tower, samples, view=view, batch_size=batch_size)
    texts = tower.embed_text([CLIP_SCORE_PREFIX + said[sample.id] for sample in samples]).float().cpu()
    return clip_score(images[rows], texts, [sample.id for sample in samples])
