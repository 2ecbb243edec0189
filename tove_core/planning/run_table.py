"""What a run takes, as text for people. No torch."""

from __future__ import annotations

from tove_core.planning.figures import PARTIAL, Figure
from tove_core.planning.run_figures import Hours, RunPlan, Timing
from tove_core.planning.table import byte_text, marked

NO_HOURS = (
    "hours: --measure times the parts on --device for some seconds each; --tflops X takes what another machine was "
    "measured to sustain"
)


def render_run(run: RunPlan) -> list[str]:
    """Return lines on steps and data, disk, computation and hours."""
    data, each = run.data, " per 1,000 images" if run.per_thousand else ""
    taken = "taken to be " if data.taken else ""
    sees = f"{taken}{data.per_sample} image{'s' if data.per_sample > 1 else ''} a sample"
    tokens = "" if run.tokens is None else f", {run.tokens} tokens of image"
    known = "unknown" if data.images is None else f"{data.images:,}"
    advice = "; --images N tells" if data.images is None else ""
    lines = [
        f"the run: {run.steps:,} steps of {run.batch_size} samples; {sees}{tokens}",
        f"  texts: ~{data.text} tokens, of which {data.answer} are predicted ({data.texts})",
        f"  distinct images: {known} ({data.counted}){advice}",
        *_disk(run, each),
        "computation (a multiply-add counts as two):",
        f"  CLIP and experts, {'at every step' if run.repeated else 'once an image'}: {_flops(run.frozen)}{each}",
        f"  training steps, forward and backward: {_flops(run.training)}",
        f"  together: {_flops(run.flops)}",
    ]
    return [*lines, *(_hours(run, run.hours, each) if run.hours else [NO_HOURS])]


def _disk(run: RunPlan, each: str) -> list[str]:
    disk = run.disk
    lines = ["disk, beside the data set:", f"  download: {byte_text(disk.download)}"]
    if disk.features is not None:
        lines.append(f"  features in {disk.where}: {byte_text(disk.features)}{each}")
    lines += [
        f"  states to resume from: {byte_text(disk.states)}",
        f"  checkpoint: {byte_text(disk.checkpoint)}",
        f"  together: {byte_text(disk.together)}{', features left out' if disk.features and run.per_thousand else ''}",
    ]
    if run.memory is not None:
        lines.append(f"main memory for features: {byte_text(run.memory)}{each}")
    return lines


def _hours(run: RunPlan, hours: Hours, each: str) -> list[str]:
    together = hours.training if run.per_thousand else hours.together
    left = ", CLIP and experts left out" if run.per_thousand else ""
    return [
        f"hours, an estimate for one device, without reading and decoding images ({hours.how}):",
        f"  CLIP and experts: {_time(hours.frozen)}{each}",
        f"  training steps: {_time(hours.training)}",
        f"  together: {_time(together)}{left}",
        *(f"  {_timing(one)}" for one in hours.timings),
        *(f"  not timed: {one}" for one in hours.untimed),
    ]


def _timing(one: Timing) -> str:
    speed = "" if not one.tflops else f", {one.tflops:.3g} TFLOP/s sustained"
    return f"{one.part}: {1000 * one.seconds:.3g} ms for {one.samples} at a time{speed}"


def _flops(figure: Figure) -> str:
    if figure.value is None:
        return f"unknown ({figure.how})"
    for unit, scale in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if figure.value >= scale:
            return marked(f"{figure.value / scale:.3g} {unit}", figure)
    return marked(f"{figure.value / 1e9:.3g} GFLOP", figure)


def _time(figure: Figure) -> str:
    if figure.value is None:
        return "unknown"
    hours = figure.value / 3600
    sign = ">=" if figure.how.startswith(PARTIAL) else "~"
    text = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{figure.value} s"
    return sign + text
