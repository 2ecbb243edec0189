"""The claims themselves: which two variants each compares, and what the results say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from tove_core.demo.claims.jobs import CURVES, DETACH, FUSIONS, MERGE
from tove_core.demo.claims.measure import Result
from tove_core.demo.claims.run import Found
from tove_core.demo.claims.subjects import WORLD
from tove_core.demo.claims.summary import Change, change, differences, of_differences, of_seeds
from tove_core.demo.claims.variants import CLIP_ONLY, HUB, alone, beside
from tove_core.demo.hooks import EXPERTS


@dataclass(frozen=True)
class Verdict:
    """One claim on one data set.

    Attributes:
        claim: what is said.
        data: where it was tested.
        change: what was measured; of accuracy.
        note: what a reader must know of the comparison.
    """

    claim: str
    data: str
    change: Change
    note: str = ""


def of(found: Found, stage: str, name: str, images: int | None = None) -> dict[int, Result]:
    """Return the results of one variant by seed."""
    return {
        job.seed: result
        for job, result in found.results.items()
        if (job.stage, job.name, job.images) == (stage, name, images)
    }


def verdicts(found: Found) -> list[Verdict]:
    """Return what the results say of every claim they can say something of."""
    rows: list[Verdict] = []
    for claim, before, after in _pairs(found):
        compared = _compared(of(found, FUSIONS, before), of(found, FUSIONS, after))
        if compared is not None:
            rows.append(Verdict(claim, found.data, compared, f"{after} against {before}"))
    return [*rows, *_curves(found), *_detaching(found), *_merging(found)]


def _pairs(found: Found) -> list[tuple[str, str, str]]:
    pairs = [("experts help", CLIP_ONLY, HUB)]
    if found.data == WORLD:
        pairs += [
            ("the hub is better than its best expert beside CLIP", best(found, beside), HUB),
            ("the hub is better than its best expert in CLIP's place", best(found, alone), HUB),
        ]
    return [
        *pairs,
        ("a gate is better than plain addition", "uniform", HUB),
        ("a gate is better than concatenation", "concat", HUB),
        ("softmax is better than a sigmoid per expert", "gate, sigmoid", HUB),
        ("the residual helps: keeping CLIP's tokens is better than replacing them", "gate, no residual", HUB),
        ("the balancing loss helps", "gate, no balancing", HUB),
        ("expert dropout helps while all experts are there", "gate, no expert dropout", HUB),
    ]


def best(found: Found, form: Callable[[str], str]) -> str:
    """Return the single-expert variant of the highest mean accuracy on the test split itself."""
    return max((form(name) for name in EXPERTS), key=lambda name: _mean(of(found, FUSIONS, name)))


def _mean(results: dict[int, Result]) -> float:
    return fmean(one["accuracy"] for one in results.values()) if results else 0.0


def _compared(before: dict[int, Result], after: dict[int, Result]) -> Change | None:
    seeds = sorted(before.keys() & after.keys())
    return change([before[s] for s in seeds], [after[s] for s in seeds]) if seeds else None


def curve_images(found: Found) -> list[int]:
    """Return the numbers of training images that the curves have, rising."""
    return sorted({job.images for job in found.results if job.stage == CURVES and job.images is not None})


def _curves(found: Found) -> list[Verdict]:
    """Say whether experts help more where training images are few: the gain at the least number against that at all."""
    sizes = curve_images(found)
    if not sizes:
        return []
    few = [of(found, CURVES, name, sizes[0]) for name in (CLIP_ONLY, HUB)]
    many = [of(found, FUSIONS, name) for name in (CLIP_ONLY, HUB)]
    seeds: Sequence[int] = sorted(set.intersection(*(set(results) for results in (*few, *many))))
    if not seeds:
        return []
    gains = [differences([a[s] for s in seeds], [b[s] for s in seeds]) for a, b in (few, many)]
    note = f"the gain with {sizes[0]} training images against that with {found.size.train}"
    return [Verdict("experts help more where data are few", found.data, of_differences(gains[0] - gains[1]), note)]


def _detaching(found: Found) -> list[Verdict]:
    """Say what the experts that were expected to matter least and most cost when they are switched off."""
    runs = {job.seed: result for job, result in found.results.items() if job.stage == DETACH}
    if not runs:
        return []
    rows = []
    for claim, pick in (
        ("the expert expected to matter least is missed", min),
        ("the expert expected to matter most is missed", max),
    ):
        lost = [_lost(runs[seed], pick) for seed in sorted(runs)]
        note = "on against off (`zero`); expected from the loss increase without it on other samples; over seeds alone"
        rows.append(Verdict(claim, found.data, of_seeds(lost), note))
    return rows


def _lost(run: Result, pick: Callable[..., str]) -> float:
    name = pick(run["foreseen"], key=lambda expert: run["foreseen"][expert]["loss"])
    return run["accuracy"] - run["without"]["zero"][name]


def _merging(found: Found) -> list[Verdict]:
    runs = {job.seed: result for job, result in found.results.items() if job.stage == MERGE}
    if not runs:
        return []
    rows = []
    for claim, control in (
        ("merging keeps what training CLIP by itself does not give", "CLIP unfrozen"),
        ("the teacher matters in merging", "no teacher"),
    ):
        pair = [[runs[seed][name] for seed in sorted(runs)] for name in (control, "merged")]
        rows.append(Verdict(claim, found.data, change(*pair), f"merged against {control}, equal steps"))
    return rows
