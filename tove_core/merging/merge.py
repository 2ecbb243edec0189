"""Train a copy of the CLIP tower onto v', the enhanced tokens; its architecture stays as it is.

ToVE calls the result a knowledge-merged CLIP. The loss is ours: distance to v' at the layer the tokens are taken from,
the language loss through those tokens, and the distance between the old and new image embedding, so that the tower
stays aligned with its text tower.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import closing

import torch
from torch import Tensor
from torch.nn import functional as F

from tove_core.config import FusionConfig, MergeConfig, ModelConfig, TrainingConfig
from tove_core.data.ahead import ReadAhead
from tove_core.data.batches import BatchSampler, mixture_parts
from tove_core.data.sample import load_image
from tove_core.errors import ConfigError
from tove_core.fusion.noise import sample_keys
from tove_core.hub.view import Preprocessor, Seen
from tove_core.model import CLIP, ToveModel
from tove_core.provenance import Origin
from tove_core.tower.base import Tower
from tove_core.training.examples import Examples, by_sample
from tove_core.training.metrics import Display
from tove_core.training.optimise import adamw, parameter_groups, schedule, set_rates
from tove_core.training.refusals import warn_of_schedule
from tove_core.training.step import TransferStep


def merge(
    model: ToveModel, examples: Examples, config: MergeConfig, *, seed: int = 0, quiet: bool = False
) -> ToveModel:
    """Return a new model without experts whose tower gives what `model` gives with its experts.

    With `config.control` the tower is unfrozen and trained with the language loss alone, without a teacher.

    Args:
        model: stays as it is; its decoder is where the new model's starts.
        examples: samples bound to `model`; with a feature table the experts do not run again.

    Raises:
        ConfigError: the model has no decoder, or nothing to merge.
        DataError: the examples hold features of another model.
    """
    require_mergeable(model, config)
    examples.require_of(model)
    warn_of_schedule(config.steps, config.warmup, "")
    student = _student(model)
    optimizer = adamw(_groups(student, config), betas=config.betas)
    sampler = BatchSampler(len(examples), config.batch_size, seed, mixture_parts(examples.samples))
    preprocess = Preprocessor({CLIP: model.tower.input}, model.config.view)
    display = Display(config.steps, "control" if config.control else "merge", quiet=quiet)
    read = ReadAhead(lambda row: preprocess.see(load_image(examples.images[row])), config.workers)
    with display, read, closing(examples):
        for step in range(config.steps):
            set_rates(optimizer, schedule(step, _as_training(config)))
            torch.manual_seed(seed * 1_000_003 + step)
            coming = sampler.batch(step + 1) if step + 1 < config.steps else []
            indices = examples.usable(sampler.batch(step), coming)
            read.expect(row for index in (*indices, *coming) for row in examples.rows[index])
            sums = _Sums()
            for places in examples.alike(indices):
                part = [indices[place] for place in places]
                pixels = _pixels(examples, part, read, preprocess).to(model.device)
                sums.add(_part(model, student, examples, part, pixels, config, seed))
            loss, note = sums.loss(config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([p for p in student.parameters() if p.requires_grad], config.clip_norm)
            optimizer.step()
            display.update(step + 1, note)
    student.tower.freeze()
    student.trained = True
    return student.eval()


def require_mergeable(model: ToveModel, config: MergeConfig) -> None:
    """Refuse a model that `merge` would refuse, before its samples are encoded.

    Raises:
        ConfigError: it has no decoder, or nothing to merge.
    """
    if model.decoder is None:
        raise ConfigError("merging needs the language loss; the model was built with decoder=None")
    if model.fusion is None and not config.control:
        raise ConfigError("there is nothing to merge: the model has no fusion")


def _student(model: ToveModel) -> ToveModel:
    # The default fusion without experts is none at all, whatever kind the teacher's is.
    config: ModelConfig = model.config.model_copy(update={"experts": (), "fusion": FusionConfig()})
    provenance = model.provenance.model_copy(update={"experts": {}})
    tower: Tower = model.tower.trainable_copy()
    decoder = copy.deepcopy(model.decoder)
    student = ToveModel(tower, {}, None, decoder, config, provenance, Origin(own_tower=True))
    if student.decoder is not None:
        student.decoder.train()
    return student


def _groups(student: ToveModel, config: MergeConfig) -> list[dict[str, object]]:
    step = TransferStep(None, student.decoder)  # type: ignore[arg-type]  # merge refuses models without one
    tower = [p for p in student.tower.parameters() if p.requires_grad]
    language = config.decoder_learning_rate or config.learning_rate
    training = TrainingConfig(learning_rate=language, decoder_learning_rate=language, weight_decay=config.weight_decay)
    return [
        {"params": tower, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        *parameter_groups(step, training),
    ]


def _as_training(config: MergeConfig) -> TrainingConfig:
    return TrainingConfig(steps=config.steps, warmup=config.warmup)


def _pixels(examples: Examples, indices: Sequence[int], read: ReadAhead[Seen], preprocess: Preprocessor) -> Tensor:
    """Return what CLIP sees of the samples' images, [B·M, 3, h, w]."""
    return preprocess([read(row) for i in indices for row in examples.rows[i]])[CLIP]


class _Sums:
    """What a step's loss is made of, summed over parts of as many images a sample."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, part: tuple[Tensor, ...]) -> None:
        """Add language loss and answer tokens and, where there is a teacher, the terms of its two distances."""
        self._parts.append(part)

    def loss(self, config: MergeConfig) -> tuple[Tensor, str]:
        """Return the loss, and what it consists of in words."""
        language, tokens, *taught = (torch.stack(values).sum(0) for values in zip(*self._parts, strict=True))
        language = language / tokens
        if config.control:
            return language, f"language {language.item():.3f}"
        difference, size, turned, images = taught
        distance, turned = difference / size, turned / images
        total = config.language * language + config.feature * distance + config.alignment * turned
        return total, f"language {language.item():.3f} feature {distance.item():.3f} alignment {turned.item():.3f}"


def _part(
    model: ToveModel,
    student: ToveModel,
    examples: Examples,
    indices: Sequence[int],
    pixels: Tensor,
    config: MergeConfig,
    seed: int,
) -> tuple[Tensor, ...]:
    tokens = by_sample(student.tower.features(pixels).patches.float(), len(indices))
    keys = sample_keys(seed, [0] * len(indices), indices)
    output = student.decoder(tokens, examples.prompts(indices), examples.targets(indices, keys))  # type: ignore[misc]
    if config.control:
        return output.loss_sum, output.token_count
    with torch.no_grad():
        wanted = model.fuse(examples.features(indices)).tokens
        embedding = model.tower.embed(pixels)
    turned = 1 - F.cosine_similarity(student.tower.embed(pixels), embedding)
    images = turned.new_tensor(len(turned))
    difference = F.mse_loss(tokens, wanted, reduction="sum")
    return output.loss_sum, output.token_count, difference, wanted.square().sum(), turned.sum(), images
