"""`tove bench fusion`: what each way to use the experts gives, at equal trainable size, steps and language model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tove_core.demo.hooks import EXPERTS
from tove_core.demo.world import BENCH, Size, World, model_config, training
from tove_core.errors import ConfigError
from tove_core.evaluation.evaluate import evaluate
from tove_core.fusion import fusion_parameters
from tove_core.training.loop import fit

VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "clip-mlp": ("clip-mlp", ()),
    **{f"CLIP + {name}": ("gate", (name,)) for name in EXPERTS},
    "uniform": ("uniform", EXPERTS),
    "concat": ("concat", EXPERTS),
    "gate": ("gate", EXPERTS),
}
"""Fusion kind and experts by the name of the variant."""


def run(
    out: Path, seeds: Sequence[int], variants: Sequence[str] | None = None, *, size: Size = BENCH, quiet: bool = False
) -> str:
    """Run what is still missing of variants x seeds and return the table of all that is there.

    Args:
        out: gets one JSON file per variant and seed; a file made with other settings is refused.

    Raises:
        ConfigError: a variant is unknown, or results of other settings lie in `out`.
    """
    wanted = list(VARIANTS) if variants is None else list(variants)
    if unknown := [name for name in wanted if name not in VARIANTS]:
        raise ConfigError(f"there is no variant {unknown[0]!r}; choose from {', '.join(VARIANTS)}")
    out.mkdir(parents=True, exist_ok=True)
    missing = [(seed, name) for seed in seeds for name in wanted if _read(out, name, seed, size) is None]
    if missing:
        world = World(size)
        budget = fusion_parameters(
            world.hub.config.fusion,
            world.hub.tower.width,
            [align.width for align in world.hub.align.values()],  # type: ignore[misc]  # an Align
        )
        for seed, name in missing:
            _one(world, out, name, seed, budget, quiet=quiet)
    found = {name: [_read(out, name, seed, size) for seed in seeds] for name in wanted}
    text = table({name: [one for one in rows if one] for name, rows in found.items()}, size)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    return text


def table(results: dict[str, list[dict[str, Any]]], size: Size) -> str:
    """Return the table in Markdown: mean and standard deviation over seeds."""
    kinds = list(next(rows[0] for rows in results.values() if rows)["kinds"])
    lines = [
        f"Test split, {size.test} scenes; {size.steps} steps of {size.batch} samples each.",
        "",
        f"| variant | seeds | parameters | accuracy | {' | '.join(kinds)} | CIDEr-D | answer loss |",
        f"|---|---|---|---|{'---|' * len(kinds)}---|---|",
    ]
    for name, rows in results.items():
        cells = [_spread([row["accuracy"] for row in rows])]
        cells += [f"{statistics.fmean(row['kinds'][kind] for row in rows):.3f}" for kind in kinds]
        cells += [_spread([row[key] for row in rows]) for key in ("cider", "loss")]
        lines.append(f"| {name} | {len(rows)} | {rows[0]['parameters']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _one(world: World, out: Path, name: str, seed: int, budget: int, *, quiet: bool) -> None:
    from tove_core.evaluation.loss import mean_loss

    kind, experts = VARIANTS[name]
    model = world.model(kind, experts, budget, seed)
    fit(model, world.examples(model, world.train), training(world.size), seed=seed, quiet=quiet, label=f"{name} {seed}")
    examples = world.examples(model, world.test)
    scores = evaluate(model, examples)
    parameters = sum(p.numel() for p in model.fusion.parameters()) if model.fusion else 0
    result = {
        "settings": _settings(name, world.size),
        "accuracy": scores.accuracy,
        "kinds": {kind: accuracy for kind, (accuracy, _) in scores.by_kind.items()},
        "majority": scores.majority,
        "cider": scores.captions["CIDEr-D"],
        "loss": mean_loss(model, examples),
        "parameters": parameters,
    }
    path = _path(out, name, seed)
    path.with_suffix(".tmp").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".tmp").replace(path)


def _settings(name: str, size: Size) -> dict[str, Any]:
    config = {"model": model_config(*VARIANTS[name]).model_dump(mode="json"), "size": asdict(size)}
    return config | {"training": training(size).model_dump(mode="json")}


def _read(out: Path, name: str, seed: int, size: Size) -> dict[str, Any] | None:
    path = _path(out, name, seed)
    if not path.is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["settings"] != json.loads(json.dumps(_settings(name, size))):
        raise ConfigError(f"{path} was made with other settings; give another folder, or remove it to run it again")
    return result


def _path(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(' + ', '+')}-{seed}.json"


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else "-"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
