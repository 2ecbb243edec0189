"""What a run lacks, said before anything is read, loaded or computed for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel

from tove_core import plugins
from tove_core.checkpoint import Manifest, read_manifest
from tove_core.config import GrowthConfig, RunConfig, TrainingConfig
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError, DataError
from tove_core.stages import STAGES
from tove_core.training.optimise import inexact
from tove_core.training.shard import require_even

if TYPE_CHECKING:
    from tove_core.model import ToveModel


def require_trainable(config: RunConfig) -> None:
    """Refuse a run without a language model, or experts that could not join the run they are to join.

    Raises:
        ConfigError: there is no decoder, the run was never trained, has no fusion, or holds such an expert already.
        CheckpointError: there is no checkpoint that experts could join.
        ToveError: an expert that is to join is not known.
    """
    if config.growth is not None:
        _require_growth(config.growth, read_manifest(config.growth.source))
    elif config.model.decoder is None:
        raise ConfigError("training needs a decoder, and model.decoder is none; name a language model there")
    elif config.model.decoder.train in ("all", "cross-attention") and config.model.decoder.dtype != "float32":
        raise inexact("model.decoder", config.model.decoder.dtype)


def _require_growth(growth: GrowthConfig, manifest: Manifest) -> None:
    held = [expert.key for expert in manifest.config.experts]
    for expert in growth.experts:
        if expert.key in held:
            raise ConfigError(
                f"the model holds an expert {expert.key!r} already; take it out first: tove detach RUN {expert.key} "
                "--out FOLDER"
            )
        plugins.registry().resolve(expert.name)
    if not manifest.trained:
        raise ConfigError(f"{growth.source} was never trained; train it with the new experts among model.experts")
    if manifest.config.decoder is None:
        raise ConfigError(f"training needs a decoder, and {growth.source} has none; give a run with a language model")
    if not held and manifest.config.fusion.kind != "clip-mlp":
        joining = growth.experts[0].key
        raise ConfigError(f"there is no fusion for {joining!r} to join; build a model with it and train that")


def require_fitting(samples: Sequence[Sample], config: TrainingConfig) -> None:
    """Refuse samples that a divided language model cannot be trained on, before their images are encoded.

    Raises:
        DataError: some have more images than others.
    """
    if config.shard == "full":
        require_even(len({len(sample.images) for sample in samples}) > 1)


class _Told(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def targets(self) -> Sequence[str]: ...


def require_targets(samples: Sequence[_Told]) -> None:
    """Refuse samples, or references, of which one has no text to learn or to score.

    Raises:
        DataError: there is one; it is named.
    """
    bare = next((sample.id for sample in samples if not sample.targets), None)
    if bare is not None:
        raise DataError(
            f"sample {bare!r} has no target, so that it can be neither learnt nor scored; give it one or leave it out"
        )


def warn_of_schedule(steps: int, warmup: int, prefix: str = "training.", *, stacklevel: int = 3) -> None:
    """Warn of a learning rate that never gets to its highest; `stacklevel` as for `warnings.warn`."""
    if warmup >= max(steps, 2):  # a run of one step that warms up in it is at its highest
        warnings.warn(
            f"{prefix}warmup is {warmup} and {prefix}steps is {steps}, so that the learning rate never "
            f"rises to what is set; lower {prefix}warmup below the steps",
            stacklevel=stacklevel,
        )


def warn_of_no_effect(config: RunConfig) -> None:
    """Warn of keys that were set and do nothing beside others, once for each of these.

    Defaults are no wish: they all stand in a resolved configuration, which is read back. Nor is what a stage fills in.
    """
    if config.growth is not None:
        return  # its model is another's
    fusion, decoder = config.model.fusion, config.model.decoder
    recipe = STAGES.get(config.training.stage or "", {})
    idle: list[tuple[list[str], str]] = []
    if fusion.kind != "gate":
        filled = recipe.get("model", {}).get("fusion", {}).get("gate", {})
        idle.append((_set(fusion.gate, "model.fusion.gate", filled), f"fusion.kind {fusion.kind}"))
    if decoder is not None and decoder.train != "lora":
        idle.append((_set(decoder.lora, "model.decoder.lora", {}), f"decoder.train {decoder.train}"))
    if decoder is not None and decoder.train == "none":
        own = [key for key in _set(config.training, "training", recipe.get("training", {})) if key == _OWN_RATE]
        idle.append((own, "decoder.train none"))
    for keys, beside in idle:
        if keys:
            verb, them = ("is", "it does") if len(keys) == 1 else ("are", "they do")
            told = f"{', '.join(keys)} {verb} set, and with model.{beside} {them} nothing"
            warnings.warn(f"{told}; leave out one or the other", stacklevel=3)


def warn_of_stage(config: RunConfig) -> None:
    """Warn of a stage of which nothing holds: the configuration of a run that was trained gives every key itself."""
    stage, plain, default = config.training.stage, config.model_dump(), RunConfig().model_dump()
    if stage is None:
        return
    changes = [(path, value) for path, value in _leaves(STAGES[stage]) if _at(default, path) != value]
    if config.growth is not None:  # its model is another's
        changes = [(path, value) for path, value in changes if path[0] == "training"]
    if any(_at(plain, path) == value for path, value in changes):
        return
    values = [(path, _at(plain, path)) for path, _ in changes]
    given = ", ".join(f"{'.'.join(path)} {'null' if value is None else value}" for path, value in values)
    warnings.warn(
        f"training.stage {stage} changes nothing, because the configuration gives its keys itself ({given}); take them "
        "out of the file, set them, or leave the stage out",
        stacklevel=3,
    )


def _leaves(recipe: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys of a recipe, each by its path, with their values."""
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _at(tree: Mapping[str, Any], path: Sequence[str]) -> Any:
    return reduce(lambda part, key: part[key], path, tree)


def warn_of_casts(config: RunConfig) -> None:
    """Warn of a frozen language model in float32 under bf16: autocast keeps its casts of trained weights alone."""
    decoder = config.model.decoder
    if config.growth is not None or decoder is None or decoder.quantize is not None or config.training.shard == "full":
        return
    if config.training.precision == "bf16" and decoder.dtype == "float32" and decoder.train in ("none", "lora"):
        warnings.warn(
            "model.decoder.dtype is float32, and with training.precision bf16 the frozen language model's weights are "
            "cast anew in every part of every step; model.decoder.dtype bfloat16 spares that, and two thirds of their "
            "memory",
            stacklevel=3,
        )


def warn_of_no_room(model: ToveModel, samples: Sequence[Sample]) -> None:
    """Warn of answers so long that none can be generated: training computes the given ones, which are shorter."""
    decoder = model.decoder
    if decoder is None or decoder.limit is None or not samples:
        return
    new, tokens = decoder.config.max_new_tokens, math.prod(model.tower.grid) * min(len(one.images) for one in samples)
    text = decoder.encode([decoder.config.caption_prompt], None)[0]
    if (used := decoder.length(text, tokens)) + new > decoder.limit:
        left = decoder.limit - used
        warnings.warn(
            f"model.decoder.max_new_tokens is {new}, and the image and a short text leave {max(left, 0)} of the "
            f"{decoder.limit} positions of {decoder.identity.architecture}, so that the trained model can answer "
            f"nothing; {'lower it' if left > 0 else 'choose another language model, or fewer image tokens'}",
            stacklevel=3,
        )


_OWN_RATE = "training.decoder_learning_rate"


def _set(part: BaseModel, name: str, filled: Mapping[str, Any]) -> list[str]:
    """Return the keys of a part of a configuration that were set, to neither their defaults nor what was filled in."""
    fields = type(part).model_fields
    free = {key: (fields[key].default, filled.get(key)) for key in fields if key in part.model_fields_set}
    return [f"{name}.{key}" for key, values in free.items() if getattr(part, key) not in values]


def warn_of_parts(config: TrainingConfig, processes: int) -> None:
    """Warn of more parts than a process has samples in a step: it takes them one by one, in no more parts."""
    share = -(-config.batch_size // processes)
    if config.accumulate > share:
        warnings.warn(
            f"training.accumulate is {config.accumulate}, and a process takes {share} of {config.batch_size} samples "
            f"per step, so that it takes them one by one; training.accumulate {share} is the same",
            stacklevel=3,
        )
