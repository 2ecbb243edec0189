"""Train a copy of the CLIP tower onto v', the enhanced tokens; its architecture stays as it is.

ToVE calls the result a knowledge-merged CLIP. The loss is ours: distance to v' at the layer the tokens are taken from,
the language loss through those tokens, and the distance between the old and new image embedding, so that the tower
stays aligned with its text tower.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove_core.checks import seed_given
from tove_core.config import FusionConfig, MergeConfig, ModelConfig, TrainingConfig
from tove_core.data.ahead import ReadAhead
from tove_core.data.batches import BatchSampler, mixture_parts
from tove_core.data.sample import load_image
from tove_core.errors import ConfigError, ToveError
from tove_core.hub.view import Preprocessor, Seen
from tove_core.language.base import Decoder
from tove_core.language.randomness import restored
from tove_core.merging.teacher import Teacher
from tove_core.model import CLIP, ToveModel
from tove_core.progress import Display
from tove_core.provenance import Origin
from tove_core.selecting import every_expert
from tove_core.tower.base import Tower
from tove_core.training.engine import Share
from tove_core.training.examples import Examples
from tove_core.training.faults import blamed
from tove_core.training.optimise import adamw, parameter_groups, require_exact, schedule, set_rates
from tove_core.training.refusals import require_targets, warn_of_schedule
from tove_core.training.shares import Shares
from tove_core.training.shown import by_sample
from tove_core.training.step import TransferStep

_EMBEDDINGS = frozenset(
    {"class_embedding", "cls_token", "reg_token", "positional_embedding", "position_embedding", "pos_embed"}
)
"""What open_clip, timm and transformers call embeddings of class and position, which by custom get no weight decay."""


@torch.inference_mode(False)  # as in a caller's `no_grad` too: nothing could be learnt there
def merge(
    model: ToveModel, examples: Examples, config: MergeConfig, *, seed: int = 0, quiet: bool = False
) -> ToveModel:
    """Return a new model without experts whose tower gives what `model` gives with its experts.

    With `config.control` the tower is unfrozen and trained with the language loss alone, without a teacher.

    The tower is trained in float32 whatever its dtype, which it has again in the end; one of half precision computes
    under bf16 autocast. Torch's generators are left as they were.

    Args:
        model: stays as it is; its decoder is where the new model's starts. One that selects experts teaches with all of
            them on every image, with a note.
        examples: samples bound to `model`; with a feature table the experts do not run again.

    Raises:
        ConfigError: the model has no decoder, or nothing to merge, or the seed is no whole number from 0.
        DataError: a sample has no text, the examples hold features of another model, too many images are unreadable,
            or too many samples too long for the language model.
        ToveError: the loss or the gradient is not finite; the step and the samples are named.
    """
    seed = seed_given(seed)
    decoder = require_mergeable(model, config)
    require_targets(examples.samples)
    examples.require_of(model)
    warn_of_schedule(config.steps, config.warmup, "", stacklevel=4)
    student, decoder = _student(model, decoder)
    optimizer = adamw(_groups(student, decoder, config), betas=config.betas)
    teacher = Teacher(model, examples, config)
    sampler = BatchSampler(len(examples), config.batch_size, seed, mixture_parts(examples.samples))
    shares = Shares(student, decoder, examples, sampler, seed)
    preprocess = Preprocessor({CLIP: model.tower.input}, model.config.view)
    display = Display(config.steps, "control" if config.control else "merge", quiet=quiet)
    read = ReadAhead(lambda row: preprocess.see(load_image(examples.images[row])), config.workers)
    told = every_expert(model, "the tower is trained on what the model gives")
    with told, display, read, closing(examples), restored():
        for step in range(config.steps):
            set_rates(optimizer, schedule(step, _as_training(config)))
            torch.manual_seed(seed * 1_000_003 + step)
            share = shares.take(step, config.steps)
            coming = sampler.batch(step + 1) if step + 1 < config.steps else []
            read.expect(row for index in (*share.indices, *coming) for row in examples.rows[index])
            parts = [share.some(places) for places in examples.alike(share.indices)]
            sums = _Sums()
            for part in parts:
                pixels = _pixels(examples, part.indices, read, preprocess).to(model.device)
                sums.add(_part(teacher, student, decoder, part, pixels))
            loss, note = sums.loss(config)
            if not loss.isfinite():
                raise _not_finite(f"the loss is {loss.item()}", step, examples, parts, sums, config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            trained = [p for p in student.parameters() if p.requires_grad]
            norm = torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
            if not norm.isfinite():
                raise _not_finite(f"the gradient is {norm.item()}", step, examples, parts, sums, config)
            optimizer.step()
            display.update(step + 1, note)
    student.tower.freeze().to(model.tower.dtype)
    student.trained = True
    return student.eval()


def require_mergeable(model: ToveModel, config: MergeConfig) -> Decoder:
    """Refuse a model that `merge` would refuse, before its samples are encoded; return its decoder.

    Raises:
        ConfigError: it has no decoder, or nothing to merge, or its CLIP no image embedding to be kept.
    """
    if model.decoder is None:
        raise ConfigError("merging needs the language loss; the model was built with decoder=None")
    if model.fusion is None and not config.control:
        raise ConfigError("there is nothing to merge: the model has no fusion")
    if model.tower.embed_width is None and config.alignment and not config.control:
        raise ConfigError(
            f"{model.tower.reference!r} has no image embedding that merging could keep; set alignment to 0"
        )
    return model.decoder


def _student(model: ToveModel, decoder: Decoder) -> tuple[ToveModel, Decoder]:
    """Return the model that is trained, and its decoder, a copy."""
    # The default fusion without experts is none at all, whatever kind the teacher's is.
    config: ModelConfig = model.config.model_copy(update={"experts": (), "fusion": FusionConfig()})
    provenance = model.provenance.model_copy(update={"experts": {}})
    tower: Tower = model.tower.trainable_copy()
    decoder = copy.deepcopy(decoder).train()
    return ToveModel(tower, {}, None, decoder, config, provenance, Origin(own_tower=True)), decoder


def _groups(student: ToveModel, decoder: Decoder, config: MergeConfig) -> list[dict[str, object]]:
    step = TransferStep(None, decoder)
    require_exact(step)
    tower: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in student.tower.named_parameters():
        if parameter.requires_grad:
            tower[parameter.ndim > 1 and _EMBEDDINGS.isdisjoint(name.split("."))].append(parameter)
    language = config.decoder_learning_rate or config.learning_rate
    training = TrainingConfig(learning_rate=language, decoder_learning_rate=language, weight_decay=config.weight_decay)
    return [
        {"params": tower[True], "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": tower[False], "lr": config.learning_rate, "weight_decay": 0.0},
        *parameter_groups(step, training),
    ]


def _not_finite(
    what: str, step: int, examples: Examples, parts: Sequence[Share], sums: _Sums, config: MergeConfig
) -> ToveError:
    """Return the error for a loss or gradient that is not a number, before it has changed any parameter."""
    indices = sums.bad or [index for part in parts for index in part.indices]
    taught = parts if config.feature and not config.control else ()
    given = {name: values for part in taught for name, values in examples.features(part.indices).items()}
    unfit = [name for name, values in given.items() if not values.isfinite().all()]
    ids = [examples.samples[index].id for index in indices]
    seen, cure = blamed(what, step + 1, ids, unfit, rate="learning_rate")
    return ToveError(f"{seen}; nothing was written; {cure}")


def _as_training(config: MergeConfig) -> TrainingConfig:
    return TrainingConfig(steps=config.steps, warmup=config.warmup)


def _precision(tower: Tower) -> torch.autocast:
    """Return what the copy of a tower sees in: bf16 autocast where the tower is of half precision, else float32.

    Of float16 too, whose small gradients would be lost unless the loss were scaled.
    """
    half = tower.dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(tower.device.type, torch.bfloat16, enabled=half)


def _pixels(examples: Examples, indices: Sequence[int], read: ReadAhead[Seen], preprocess: Preprocessor) -> Tensor:
    """Return what CLIP sees of the samples' images, [B·M, 3, h, w]."""
    return preprocess([read(row) for i in indices for row in examples.rows[i]])[CLIP]


class _Part(NamedTuple):
    """What a part of a step gave."""

    language: tuple[Tensor, Tensor]
    """Language loss and answer tokens."""
    taught: tuple[Tensor, ...]
    """The terms of the two distances to the teacher; nothing where there is none."""
    bad: list[int]
    """Samples whose language loss is not finite."""


class _Sums:
    """What a step's loss is made of, summed over parts of as many images a sample."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []
        self.bad: list[int] = []
        """Samples whose language loss is not finite."""

    def add(self, part: _Part) -> None:
        """Add what a part gave."""
        self._parts.append((*part.language, *part.taught))
        self.bad += part.bad

    def loss(self, config: MergeConfig) -> tuple[Tensor, str]:
        """Return the loss, and what it consists of in words."""
        language, tokens, *taught = (torch.stack(values).sum(0) for values in zip(*self._parts, strict=True))
        language = language / tokens
        if config.control:
            return language, f"language {language.item():.3f}"
        difference, size, turned, images = taught
        distance, turned = difference / size, turned / images
        total = config.language * language + config.feature * distance + config.alignment * turned
        note = f"language {language.item():.3f}"
        note += f" feature {distance.item():.3f}" if config.feature else ""
        return total, note + (f" alignment {turned.item():.3f}" if config.alignment else "")


def _part(teacher: Teacher, student: ToveModel, decoder: Decoder, part: Share, pixels: Tensor) -> _Part:
    config = teacher.config
    aligned = not config.control and config.alignment > 0
    with _precision(teacher.model.tower):
        seen, own = student.tower.features_and_embedding(pixels) if aligned else (student.tower.features(pixels), None)
    tokens = by_sample(seen.patches.float(), len(part.indices))
    output = decoder(tokens, part.texts)
    language = output.loss_sum, output.token_count
    finite = output.loss_per_sample.isfinite().tolist()
    bad = [index for index, fine in zip(part.indices, finite, strict=True) if not fine]
    if config.control:
        return _Part(language, (), bad)
    turned = tokens.new_zeros(len(pixels))
    if own is not None:
        turned = 1 - F.cosine_similarity(own.float(), teacher.embeddings(part.indices, pixels))
    images = turned.new_tensor(len(turned))
    difference, size = tokens.new_zeros(()), tokens.new_ones(())
    if config.feature:
        wanted = teacher.tokens(part.indices)
        difference, size = F.mse_loss(tokens, wanted, reduction="sum"), wanted.square().sum()
    return _Part(language, (difference, size, turned.sum(), images), bad)
