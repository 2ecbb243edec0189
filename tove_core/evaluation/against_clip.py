"""A whole recipe with its fair control: the hub, and CLIP alone at equal trainable size, steps and language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tove_core.config import FusionConfig, ModelConfig, RunConfig
from tove_core.data.readers import read_counted
from tove_core.errors import ConfigError
from tove_core.evaluation.compare import Comparison, compare_predictions
from tove_core.evaluation.over_seeds import OverSeeds, over_seeds
from tove_core.evaluation.references import references_of
from tove_core.evaluation.result import Evaluation
from tove_core.evaluation.run import evaluate_into
from tove_core.evaluation.tasks import check_task, scored_by, task, task_for
from tove_core.folders import require_writable
from tove_core.model import ToveModel
from tove_core.settings import read_config
from tove_core.training.run import CONFIG, is_finished, resume, train
from tove_core.training.run_data import held_out

HUB, CLIP_ONLY, PREDICTIONS = "hub", "clip-only", "predictions"
"""Folders below the recipe's output: two runs, each with its predictions inside."""


def run_recipe(
    config: RunConfig,
    name: str | None = None,
    *,
    device: str | None = None,
    quiet: bool = False,
    tell: Callable[[Evaluation], object] | None = None,
) -> Comparison:
    """Train a recipe and its control, score both on held-out data, and compare them sample by sample.

    Below `config.output` stand two runs, `hub` and `clip-only`, each with `predictions`. What is finished is kept and
    what was stopped goes on, so the same call continues after an interruption.

    Args:
        config: the hub's run.
        name: what is scored; None: by the data.
        device: where all of it computes; None: the CPU.
        quiet: show no progress.
        tell: called with the evaluation of the hub, then with that of the control, when each is there.

    Returns:
        A: the hub, B: CLIP alone; so a gain by the experts is above 0.

    Raises:
        ConfigError: the recipe has no experts, nothing to be scored on, or goes on from another run.
        CheckpointError: the output holds runs of another recipe.
        DataError: the data cannot be read, or are another task's.
    """
    data = held_out(config)
    if data is None:
        raise ConfigError("the recipe says nothing to score on: give validation, or a data set that has a test split")
    if not config.model.experts or config.model.fusion.kind == "clip-mlp":
        raise ConfigError("the recipe has no experts, so there is nothing to compare with CLIP alone; name some")
    _require_afresh(config)
    samples, missing = read_counted(data)  # before hours of training, not after
    chosen = task(name) if name is not None else task_for(samples)
    references = references_of(scored_by(chosen, samples))
    check_task(chosen, references)
    require_writable(config.output)
    hub = config.model_copy(update={"output": config.output / HUB})
    _trained(hub, device, quiet)
    control = config.model_copy(
        update={"output": config.output / CLIP_ONLY, "model": clip_alone(config.model, _fusion_size(hub.output))}
    )
    _trained(control, device, quiet)
    said: dict[str, Mapping[str, str]] = {}
    for run in (hub, control):
        found = evaluate_into(
            run.output / PREDICTIONS, run.output, data, samples, chosen.name,
            missing=missing, device=device, quiet=quiet,
        )  # fmt: skip
        said[run.output.name] = found.said
        if tell is not None:
            tell(found)
    # Images that cannot be read were left out of both, which was said.
    return compare_predictions(chosen, said[HUB], said[CLIP_ONLY], [one for one in references if one.id in said[HUB]])


def run_seeds(config: RunConfig, seeds: Sequence[int], name: str | None = None, **options: Any) -> OverSeeds:
    """Do what `run_recipe` does with each of several seeds, below `config.output/seed-N`, and bring it together.

    Args:
        config: the hub's run; its own seed is not used.
        seeds: two or more, each once.
        name: what is scored; None: by the data.
        options: as for `run_recipe`.

    Raises:
        ConfigError: there are fewer than two seeds, or one comes twice; or as for `run_recipe`.
        CheckpointError: as for `run_recipe`.
        DataError: as for `run_recipe`; or images could be read for some seeds alone.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds {list(seeds)} are no spread; give two or more, each once")
    found = {}
    for seed in seeds:
        own = config.model_dump() | {"seed": seed, "output": config.output / f"seed-{seed}"}
        found[seed] = run_recipe(RunConfig.model_validate(own), name, **options)
    return over_seeds(found)


def clip_alone(model: ModelConfig, parameters: int) -> ModelConfig:
    """Return the control's configuration: no expert, and an MLP on CLIP's tokens of as many parameters."""
    fusion = FusionConfig(
        kind="clip-mlp", parameters=parameters, init=model.fusion.init, residual=model.fusion.residual
    )
    return model.model_copy(update={"experts": (), "fusion": fusion})


def _require_afresh(config: RunConfig) -> None:
    """Refuse a recipe that goes on from a trained run: nothing of that is in a model of CLIP alone.

    Raises:
        ConfigError: it does.
    """
    for key, source in (("start", config.start), ("growth", config.growth and config.growth.source)):
        if source is not None:
            raise ConfigError(
                f"the recipe goes on from {source} ({key}), whose experts and fusion its control without experts "
                f"cannot have; leave out {key}, so that both are trained afresh"
            )


def _fusion_size(run: Path) -> int:
    fusion = ToveModel.from_pretrained(run).fusion
    return sum(p.numel() for p in fusion.parameters()) if fusion is not None else 0


def _trained(config: RunConfig, device: str | None, quiet: bool) -> None:
    """Train a run, go on with it where it was stopped, or leave it as it is where it is finished.

    A stopped run whose configuration saves no states begins anew.
    """
    finished = is_finished(config.output)
    if finished or (config.output / CONFIG).is_file():
        _require_same(config)
    if finished:
        return
    if (config.output / CONFIG).is_file() and config.training.save_every is not None:
        resume(config.output, device=device, quiet=quiet)
        return
    (config.output / CONFIG).unlink(missing_ok=True)
    train(config, device=device, quiet=quiet)


def _require_same(config: RunConfig) -> None:
    saved = read_config(RunConfig, config.output / CONFIG).model_copy(update={"output": config.output})
    if saved.model_dump(mode="json") != config.model_dump(mode="json"):
        raise ConfigError(
            f"{config.output} holds a run of another configuration; give another output, or remove that folder"
        )
