"""`tove demo`: the whole life cycle on the embedded world, in minutes and offline."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tove_core.config import DataConfig, MergeConfig, RunConfig
from tove_core.contribution import contributions
from tove_core.demo.reader import QUESTIONS
from tove_core.demo.results import SeedResult, write_report
from tove_core.demo.table import render
from tove_core.demo.world import FULL, Size, World, training
from tove_core.evaluation.evaluate import Scores, evaluate
from tove_core.fusion import fusion_parameters
from tove_core.hub.checkpoints import CHECKPOINT
from tove_core.merging import merge
from tove_core.merging.write import write_merged
from tove_core.model import ToveModel
from tove_core.report.gate_maps import write_gate_maps
from tove_core.run_folder import CONFIG
from tove_core.settings import write_config
from tove_core.training.examples import Examples
from tove_core.training.loop import fit
from tove_core.training.run_data import describe_run

Say = Callable[[str], None]


def demo(out: Path, *, seeds: int = 1, size: Size = FULL, quiet: bool = False, say: Say = print) -> list[SeedResult]:
    """Run the demo and write `out`: checkpoint, metrics, pictures, merged CLIP, `report.md` and `report.json`.

    Args:
        out: folder for the results; exists and is empty, or does not exist.
        seeds: how often training is repeated; merging and pictures are made for the first.
    """
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    say(f"rendering {size.train + size.validation + size.test} scenes, running CLIP and 5 experts once on each ...")
    world = World(size)
    for part in (world.train, world.validation, world.test):
        world.examples(world.hub, part)
    say(f"  {time.perf_counter() - began:.0f} s")
    say(str(world.hub.parameters_report()))
    results = [_seed(world, seed, out, quiet=quiet, say=say) for seed in range(seeds)]
    text = render(results, size, time.perf_counter() - began, world.test_questions)
    (out / "report.md").write_text(text + "\n", encoding="utf-8")
    write_report(out, results)
    say(text)
    say(f"\nwrote {out}: checkpoint/, config.yaml, merged/ (open_clip loads it), gates.png, metrics.jsonl, report.md")
    say(f"try: tove answer {out} IMAGE --question 'what shape is the red one?'    test the claims: tove bench claims")
    return results


def _seed(world: World, seed: int, out: Path, *, quiet: bool, say: Say) -> SeedResult:
    size, clock = world.size, _Clock()
    hub = world.hub if seed == 0 else world.model("gate", seed=seed)
    parameters = fusion_parameters(hub.config.fusion, hub.tower.width, [a.width for a in hub.align.values()])  # type: ignore[union-attr,misc]
    clip_only = world.model("clip-mlp", parameters=parameters, seed=seed)
    say(
        f"seed {seed}: training CLIP only, then the hub; {size.steps} steps each, {parameters:,} fusion parameters each"
    )
    with clock("train CLIP only"):
        fit(
            clip_only, world.examples(clip_only, world.train), training(size), seed=seed, quiet=quiet, label="CLIP only"
        )
    with clock("train hub"):
        output = out if seed == 0 else None
        fit(hub, world.examples(hub, world.train), training(size), seed=seed, output=output, quiet=quiet, label="hub")
    with clock("evaluate"):
        plain = evaluate(clip_only, world.examples(clip_only, world.test))
        full = evaluate(hub, world.examples(hub, world.test))
    with clock("contributions"):
        found = contributions(hub, world.examples(hub, world.validation))
    with clock("detach"):
        least, most = (_without(world, hub, one.expert) for one in (found[-1], found[0]))
    result = SeedResult(seed, plain, full, found, least, most, seconds=clock.seconds)
    if seed == 0:
        hub.save_pretrained(out / CHECKPOINT)
        write_config(run_config(size, hub, out), out / CONFIG)
        shown = [sample.load() for sample in world.test if sample.prompt is None][:6]
        write_gate_maps(hub, shown, out / "gates.png")
        with clock("merge"):
            result.merged, result.control = _merge(world, hub, clip_only, out, quiet=quiet)
    return result


def run_config(size: Size, hub: ToveModel, out: Path) -> RunConfig:
    """Return what lets the demo's folder be used as a run: its model, and the same scenes by the reader `world`.

    The reader asks more about each scene than the demo does.
    """
    data, validation = (
        DataConfig(reader="world", split=split, limit=scenes * (QUESTIONS + 1))
        for split, scenes in (("train", size.train), ("validation", size.validation))
    )
    return RunConfig(model=hub.config, data=data, validation=validation, training=training(size), output=out)


def _without(world: World, hub: ToveModel, expert: str) -> Scores:
    questions = world.examples(hub, world.test_questions)  # with every expert's features
    hub.detach(expert)
    try:
        return evaluate(hub, questions)
    finally:
        hub.attach(expert)


def _merge(world: World, hub: ToveModel, clip_only: ToveModel, out: Path, *, quiet: bool) -> tuple[Scores, Scores]:
    settings = MergeConfig(steps=world.size.merge_steps, batch_size=world.size.batch, learning_rate=1e-3)
    found = []
    for model, config in ((hub, settings), (clip_only, settings.model_copy(update={"control": True}))):
        student = merge(model, world.examples(model, world.train), config, quiet=quiet)
        if not config.control:
            write_merged(student, out / "merged")
            describe_run(out, out / "merged", student)
        found.append(evaluate(student, Examples.cached(student, world.test_questions, batch_size=256)))
    return found[0], found[1]


class _Clock:
    """Wall times by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name = ""

    def __call__(self, name: str) -> _Clock:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[self._name] = round(time.perf_counter() - self._start, 1)
