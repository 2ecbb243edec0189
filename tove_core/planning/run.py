"""Plan a whole run: what it wants on disk, what it computes, and its hours at a known speed."""

from __future__ import annotations

from pathlib import Path

import torch

from tove_core import plugins
from tove_core.config import RunConfig
from tove_core.data.cache.codec import CacheDtype, row_bytes
from tove_core.errors import ConfigError, WeightsError
from tove_core.fusion.align import aligned_width
from tove_core.planning.data import look
from tove_core.planning.experts import ON_META
from tove_core.planning.figures import Figure, Plan, total
from tove_core.planning.run_figures import THOUSAND, DataSeen, Disk, RunPlan, times, whole
from tove_core.planning.step import CLIP, Step, run_flops
from tove_core.tower.load import load_tower
from tove_core.tower.text import TextVectors
from tove_core.training.state import KEPT

KEPT_IN: CacheDtype = "float16"
"""How features are kept if nothing else is said, in a cache and in main memory."""


def plan_run(config: RunConfig, made: Plan, *, images: int | None = None) -> tuple[RunPlan, Step | None]:
    """Say what a run takes beside memory, and return its trained parts on meta; None where they are not known.

    Args:
        config: of the run.
        made: the plan of its model, for training.
        images: distinct images of its data, where they cannot be counted.

    Raises:
        ConfigError: it is no run that `tove plan` knows, or `images` is below 1.
    """
    if config.model.decoder is None:
        raise ConfigError("the run has no decoder and cannot be trained; give it one, or leave --train out")
    if config.growth is not None:
        raise ConfigError("what a run with growth trains is not planned; leave --train out to plan its model")
    data = look(config, config.model.decoder, images)
    step, tokens, unknown = _outlined(config)
    training, repeated = config.training, config.training.cache is False
    units = training.steps * training.batch_size * data.per_sample if repeated else data.images or THOUSAND
    said = "CLIP's and experts', " + ("at every step" if repeated else "once an image")
    frozen = times(total(part.flops for part in made.parts if part.part in (CLIP, "expert")), units, said)
    seen = None if tokens is None else tokens * data.per_sample
    work = unknown
    if step is not None and seen is not None:
        work = Figure.about(run_flops(step, seen, data), f"{ON_META}, forward and backward")
    per_thousand = not repeated and data.images is None
    features = unknown if step is None or tokens is None else _features(config, step, tokens, data)
    plan = RunPlan(
        steps=training.steps,
        batch_size=training.batch_size,
        tokens=seen,
        data=data,
        per_thousand=per_thousand,
        repeated=repeated,
        disk=_disk(config, made, step, unknown, features, per_thousand),
        memory=features if training.cache is True else None,
        frozen=frozen,
        training=work,
    )
    return plan, step


def _outlined(config: RunConfig) -> tuple[Step | None, int | None, Figure]:
    """Return the trained parts and CLIP's tokens of an image; None, and why, where they are not known."""
    try:
        with torch.device("meta"):
            tower = load_tower(config.model.clip, weights="random", device="meta")
        registry = plugins.registry()
        specs = {wanted.key: registry.resolve(wanted.name).spec for wanted in config.model.experts}
        texts = TextVectors(tower)
        widths = {key: aligned_width(spec, texts) for key, spec in specs.items()}
        return Step(config, tower.width, widths), tower.tokens, Figure.unknown("")
    except WeightsError as error:
        return None, None, Figure.unknown(" ".join(str(error).split()))


def _features(config: RunConfig, step: Step, tokens: int, data: DataSeen) -> Figure:
    """Return the bytes of the features of all images, or of a thousand."""
    shapes = [(tokens, channels) for channels in (step.width, *step.widths.values())]
    one = sum(row_bytes(shape, KEPT_IN) for shape in shapes)
    if config.training.cache is True:  # no keys in memory
        one = sum(2 * tokens * channels for _, channels in shapes)
    return Figure.about(one * (data.images or THOUSAND), f"in {KEPT_IN}")


def _disk(
    config: RunConfig, made: Plan, step: Step | None, unknown: Figure, features: Figure, per_thousand: bool
) -> Disk:
    training = config.training
    states = checkpoint = unknown
    if step is not None:
        trained = sum(p.numel() * p.element_size() for p in step.trained)
        # Values and two moments of AdamW, with its count of steps for each tensor; averages are float32 at least.
        state = 3 * trained + 4 * len(step.trained)
        if training.average is not None:
            state += sum(p.numel() * max(4, p.element_size()) for p in step.trained)
        count = 0 if training.save_every is None else min(KEPT + 1, training.steps // training.save_every)
        states = Figure.about(count * state, f"{count} of {state} bytes, while one is written")
        checkpoint = Figure.about(trained, "what is trained, without headers and statistics")
    cache = training.cache if isinstance(training.cache, Path) else None
    rest = total([made.download, states, checkpoint])
    return Disk(
        download=made.download,
        features=features if cache else None,
        where=str(cache) if cache else None,
        states=states,
        checkpoint=checkpoint,
        together=whole(features, rest, per_thousand) if cache else rest,
    )
