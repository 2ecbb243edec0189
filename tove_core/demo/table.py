"""The demo's report: what was measured, with the spread over seeds where there are several."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from tove_core.data.sample import Sample
from tove_core.demo.claims.summary import of_differences
from tove_core.demo.results import SeedResult
from tove_core.demo.world import Size
from tove_core.evaluation.evaluate import Scores, accuracy_per_image


def render(results: Sequence[SeedResult], size: Size, seconds: float, questions: Sequence[Sample]) -> str:
    """Return the report in Markdown.

    Args:
        questions: of the test split; intervals are drawn over their images.
    """
    first = results[0]
    kinds = [kind for kind in first.hub.by_kind if kind in first.clip_only.by_kind]
    lines = [
        f"## Embedded world, {size.test} held-out scenes, {len(results)} seed{'s' * (len(results) > 1)}",
        "",
        "| accuracy | majority answer | CLIP only | hub of experts |",
        "|---|---|---|---|",
        f"| **all questions** | {first.hub.majority:.3f} | {_spread([r.clip_only.accuracy or 0 for r in results])} "
        f"| {_spread([r.hub.accuracy or 0 for r in results])} |",
    ]
    for kind in kinds:
        plain, hub = ([scores.by_kind[kind][0] for scores in column] for column in _columns(results))
        lines.append(f"| {kind} | {first.hub.majority_by_kind[kind]:.3f} | {_spread(plain)} | {_spread(hub)} |")
    lines.append(
        f"| caption CIDEr | - | {_spread([r.clip_only.captions['CIDEr-D'] for r in results])} "
        f"| {_spread([r.hub.captions['CIDEr-D'] for r in results])} |"
    )
    lines += [
        "",
        "| expert | loss increase without it (nats per answer token) | gated norm | gate mass |",
        "|---|---|---|---|",
    ]
    for one in first.contributions:
        losses = [next(c.loss for c in r.contributions if c.expert == one.expert) for r in results]
        lines.append(f"| {one.expert} | {_spread(losses, '+.3f')} | {_cell(one.norm)} | {_cell(one.mass)} |")
    lines += ["", *_after(results, size), "", *_claims(results, questions), "", _times(first, seconds)]
    return "\n".join(lines)


def _columns(results: Sequence[SeedResult]) -> tuple[list[Scores], list[Scores]]:
    return [one.clip_only for one in results], [one.hub for one in results]


def _after(results: Sequence[SeedResult], size: Size) -> list[str]:
    first = results[0]
    least, most = (_detached([one.contributions[place].expert for one in results]) for place in (-1, 0))
    rows = [
        (f"least contributing expert detached ({least})", [one.without_least for one in results]),
        (f"most contributing expert detached ({most})", [one.without_most for one in results]),
        (f"merged: one CLIP, no expert, {size.merge_steps} steps", [first.merged]),
        (f"its control: CLIP unfrozen, language loss alone, {size.merge_steps} steps", [first.control]),
    ]
    lines = ["| afterwards | accuracy |", "|---|---|"]
    for what, scores in rows:
        if known := [one.accuracy or 0.0 for one in scores if one is not None]:
            lines.append(f"| {what} | {_spread(known)} |")
    return lines


def _detached(experts: Sequence[str]) -> str:
    """Return which expert the seeds went without, each its own."""
    return experts[0] if len(set(experts)) == 1 else f"each seed's own: {', '.join(experts)}"


def _claims(results: Sequence[SeedResult], questions: Sequence[Sample]) -> list[str]:
    """Return the short form of the claims bench: what these runs can say of the method's claims."""
    rows = [
        ("experts help (hub against CLIP only)", [(one.clip_only, one.hub) for one in results]),
        (
            "the least contributing expert is missed (hub against without it)",
            [(o.without_least, o.hub) for o in results],
        ),
        ("the most contributing expert is missed", [(one.without_most, one.hub) for one in results]),
        (
            "merging gives more than training CLIP by itself (merged against its control)",
            [(one.control, one.merged) for one in results if one.control is not None and one.merged is not None],
        ),
    ]
    over = "images" if len(results) == 1 else "seeds and images"
    lines = [f"| the claims, in short | points (95 % interval over {over}) | holds |", "|---|---|---|"]
    for claim, pairs in rows:
        if pairs:
            found = of_differences(np.array([_gained(before, after, questions) for before, after in pairs]))
            lines.append(f"| {claim} | {found} | {found.verdict} |")
    return lines


def _gained(before: Scores, after: Scores, questions: Sequence[Sample]) -> np.ndarray:
    old, new = (accuracy_per_image(questions, one.predictions) for one in (before, after))
    return np.array(new) - np.array(old)


def _times(first: SeedResult, seconds: float) -> str:
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in first.seconds.items())
    return f"wall time {seconds:.0f} s ({parts})"


def _spread(values: Sequence[float], form: str = ".3f") -> str:
    if len(values) == 1:
        return format(values[0], form)
    return f"{statistics.fmean(values):{form}} ± {statistics.stdev(values):.3f}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
