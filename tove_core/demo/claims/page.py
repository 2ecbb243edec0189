"""The bench's page: verdicts first, then the figures behind them, as they come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from tove_core.demo.claims.jobs import CURVES, DETACH, FUSIONS, MERGE
from tove_core.demo.claims.measure import RULES, Result
from tove_core.demo.claims.plot import curves, dots
from tove_core.demo.claims.run import Found, keep
from tove_core.demo.claims.subjects import NLVR, WORLD
from tove_core.demo.claims.summary import change, rank_correlation, spread
from tove_core.demo.claims.variants import CLIP_ONLY, HUB, SHORT, VARIANTS
from tove_core.demo.claims.verdicts import curve_images, of, verdicts

HEAD = """# The claims, put to the test

Does a hub of experts help, is it more than its best expert, does the gate earn its place, what do residual, balancing
and dropped experts do, do experts pay where data are few, can they be taken away again, and does merging keep what they
gave? On three data sets, each at equal trainable size (within one hidden unit), equal steps and the same language
model. This page is written by

```console
$ tove bench claims --data world,easy-vqa,nlvr --easy-vqa PATH --nlvr PATH --page docs/benchmarks/claims.md
```

which goes on where it stopped; `--data`, `--stages`, `--seeds` and `--minutes` cut it into parts. Made on 2
virtual CPUs; not run on a GPU. CLIP, experts and language model are the small ones of the
[embedded world](../reference/world.md): the experts know rendered scenes, and nothing here says what large experts do
on photographs.

Every setting was chosen on the world's validation split for the gate and `clip-mlp`; the others got the same, but that
`NAME alone` drops no expert, because there is nothing beside it. ± is the standard deviation over seeds, which vary the
fusion's start, the order of samples and the noise; the frozen parts and the language model's start are single runs.
Points are means of the differences per image (in NLVR per statement), each counting alike; on easy-VQA, whose images
have different numbers of questions, they differ by tenths from the difference of two accuracies. An interval (95 %)
joins Student's t over seeds and the normal one over images, and errs on the wide side; of one seed it covers images
alone. Intervals are not corrected for there being many rows: of 20 differences that are none, one is expected to seem
decided. `gate` is the softmax gate of ToVE; `NAME alone` puts what one expert gives in place of CLIP's tokens; the best
single expert is the best on the test split itself, which favours it."""

NAMES = {WORLD: "Embedded world", "easy-vqa": "easy-VQA", NLVR: "NLVR"}


def write(path: Path, found: Sequence[Found]) -> None:
    """Write the page, its pictures beside it, and every result, from which `run.unpack` makes files again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for one in found:
        for name, picture in pictures(one).items():
            (path.parent / f"{path.stem}-{name}.svg").write_text(picture, encoding="utf-8")
    path.write_text(render(found, path.stem) + "\n", encoding="utf-8")
    keep(path.with_suffix(".json"), found)


def render(found: Sequence[Found], stem: str) -> str:
    """Return the page in Markdown; pictures are called `STEM-NAME.svg`."""
    parts = [HEAD, "## What holds", verdict_table(found)]
    for one in found:
        parts += [f"## {NAMES[one.data]}", about(one), *(table for table in _tables(one))]
        parts += [f"![{name.replace('-', ' ')}]({stem}-{name}.svg)" for name in pictures(one)]
    return "\n\n".join(parts)


def tables(found: Sequence[Found]) -> str:
    """Return verdicts and tables alone, as the command prints them."""
    parts = [verdict_table(found)]
    for one in found:
        parts += [f"{NAMES[one.data]}: {about(one)}", *_tables(one)]
    return "\n\n".join(parts)


def about(found: Found) -> str:
    """Return what was read, for how long was trained, and what is still missing."""
    size, seeds = found.size, sorted({job.seed for job in found.results})
    what = "scenes" if found.data == WORLD else "samples"
    text = (
        f"{size.train:,} {what} to train on at most, {size.test:,} to test on; {size.steps} steps of {size.batch} "
        f"samples, then {size.merge_steps:,} of merging; seeds {', '.join(str(seed) for seed in seeds) or 'none yet'}."
    )
    return text + (f" Not finished: {len(found.missing)} results are missing." if found.missing else "")


def verdict_table(found: Sequence[Found]) -> str:
    """Return every claim with what was measured, in points of accuracy."""
    lines = ["| claim | on | points (95 % interval) | seeds | holds | compared |", "|---|---|---|---|---|---|"]
    for one in found:
        for row in verdicts(one):
            signs = " ".join(f"{100 * value:+.1f}" for value in row.change.by_seed)
            lines.append(f"| {row.claim} | {row.data} | {row.change} | {signs} | {row.change.verdict} | {row.note} |")
    return "\n".join(lines)


def _tables(found: Found) -> list[str]:
    made = [_fusions(found), _curves(found), _detached(found), _merged(found)]
    return [table for table in made if table]


def _fusions(found: Found) -> str:
    rows = {name: by_seed for name in VARIANTS if (by_seed := of(found, FUSIONS, name))}
    if not rows:
        return ""
    first = next(iter(next(iter(rows.values())).values()))
    kinds = [kind for kind in first["kinds"] if kind]
    more = ["consistency"] if "consistency" in first else ["CIDEr-D"] if first["captions"] else []
    head = ["variant", "seeds", "parameters", "accuracy", "to clip-mlp", *kinds, *more, "answer loss"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, by_seed in rows.items():
        some = list(by_seed.values())
        cells = [name, str(len(some)), f"{some[0]['parameters']:,}", spread(one["accuracy"] for one in some)]
        cells += [_to_clip(rows, name), *(f"{fmean(one['kinds'][kind] for one in some):.3f}" for kind in kinds)]
        cells += [spread(_extra(one, key) for one in some) for key in more]
        lines.append(f"| {' | '.join([*cells, spread(one['loss'] for one in some)])} |")
    return "\n".join(lines) + f"\n\nMajority answer: {first['majority']:.3f}."


def _extra(result: Result, key: str) -> float:
    return result["consistency"] if key == "consistency" else result["captions"][key]


def _to_clip(rows: Mapping[str, Mapping[int, Result]], name: str) -> str:
    base = rows.get(CLIP_ONLY, {})
    seeds = sorted(base.keys() & rows[name].keys())
    if name == CLIP_ONLY or not seeds:
        return "-"
    return str(change([base[seed] for seed in seeds], [rows[name][seed] for seed in seeds]))


def _curves(found: Found) -> str:
    sizes = curve_images(found)
    if not sizes:
        return ""
    lines = ["| training images | CLIP only | hub | gain, points |", "|---|---|---|---|"]
    for size in [*sizes, None]:
        stage = FUSIONS if size is None else CURVES
        plain, hub = (of(found, stage, name, size) for name in (CLIP_ONLY, HUB))
        seeds = sorted(plain.keys() & hub.keys())
        if seeds:
            gain = change([plain[s] for s in seeds], [hub[s] for s in seeds])
            cells = [spread(one["accuracy"] for one in results.values()) for results in (plain, hub)]
            lines.append(f"| {size or found.size.train} | {' | '.join(cells)} | {gain} |")
    return f"Accuracy by training images, all after {found.size.steps} steps:\n\n" + "\n".join(lines)


def _detached(found: Found) -> str:
    runs = [result for job, result in found.results.items() if job.stage == DETACH]
    if not runs:
        return ""
    lines = [
        "| expert off | points lost, `zero` | points lost, `renormalise` "
        "| loss increase without it | gated norm | gate mass |",
        "|---|---|---|---|---|---|",
    ]
    names = sorted(runs[0]["foreseen"], key=lambda name: -fmean(one["foreseen"][name]["loss"] for one in runs))
    for name in names:
        lost = [
            spread((100 * (one["accuracy"] - one["without"][rule][name]) for one in runs), "+.1f") for rule in RULES
        ]
        seen = [spread((one["foreseen"][name][key] for one in runs), form) for key, form in _FORMS]
        lines.append(f"| {name} | {' | '.join([*lost, *seen])} |")
    ranks = ", ".join(f"{label} {spread(_foresight(one, key) for one in runs)}" for key, label in _LABELS.items())
    return (
        "Each expert switched off, by both rules. What foresees the loss of accuracy (`zero`), as rank correlation "
        f"over the {len(names)} experts: {ranks}.\n\n" + "\n".join(lines)
    )


_FORMS = (("loss", "+.3f"), ("norm", ".2f"), ("mass", ".2f"))
_LABELS = {"loss": "loss increase without it", "norm": "gated norm", "mass": "gate mass"}


def _foresight(run: Result, key: str) -> float:
    names = list(run["foreseen"])
    lost = [run["accuracy"] - run["without"]["zero"][name] for name in names]
    return rank_correlation([run["foreseen"][name][key] for name in names], lost)


def _merged(found: Found) -> str:
    runs = {job.seed: result for job, result in found.results.items() if job.stage == MERGE}
    if not runs:
        return ""
    rows = [("hub, with its experts", of(found, FUSIONS, HUB)), ("CLIP only, frozen", of(found, FUSIONS, CLIP_ONLY))]
    rows += [
        (label, {seed: run[name] for seed, run in runs.items()})
        for label, name in (
            ("merged: one CLIP, no expert", "merged"),
            ("control: the hub's decoder, CLIP unfrozen, no teacher", "no teacher"),
            ("control: CLIP only, then unfrozen", "CLIP unfrozen"),
        )
    ]
    lines = ["| model | accuracy | answer loss |", "|---|---|---|"]
    for label, results in rows:
        some = [results[seed] for seed in sorted(results.keys() & runs.keys())]
        lines.append(f"| {label} | {spread(x['accuracy'] for x in some)} | {spread(x['loss'] for x in some)} |")
    after = f"Merging for {found.size.merge_steps:,} steps, and its controls for as many:"
    return f"{after}\n\n" + "\n".join(lines)


def pictures(found: Found) -> dict[str, str]:
    """Return SVG pictures by name."""
    made: dict[str, str] = {}
    order = VARIANTS if found.data == WORLD else SHORT
    rows = {name: [one["accuracy"] for one in some.values()] for name in order if (some := of(found, FUSIONS, name))}
    if rows:
        made[f"{found.data}-fusions"] = dots(rows, f"{NAMES[found.data]}: accuracy, a dot a seed, a bar at the mean")
    sizes = curve_images(found)
    if sizes:
        series = {
            label: {
                size or found.size.train: [one["accuracy"] for one in some.values()]
                for size in [*sizes, None]
                if (some := of(found, FUSIONS if size is None else CURVES, name, size))
            }
            for name, label in ((CLIP_ONLY, "CLIP only"), (HUB, "hub of experts"))
        }
        made[f"{found.data}-curves"] = curves({k: v for k, v in series.items() if v}, "Accuracy by training images")
    return made
