"""The page of a pushed checkpoint: its parts and their terms, what was measured, and how to load it. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import yaml

from tove_core.in_process import IN_PROCESS
from tove_core.plugins import OWN
from tove_core.publishing.measured import Measured
from tove_core.publishing.terms import Part, base_models, trained_inside

if TYPE_CHECKING:
    from tove_core.checkpoint import Manifest

_ALLOWED = {True: "allowed", False: "not allowed", None: "not known"}


def model_card(repo: str, manifest: Manifest, parts: Sequence[Part], measured: Sequence[Measured] = ()) -> str:
    """Return the text of a repository's README.md. It states no licence for what was trained: that is its author's."""
    decoder = manifest.config.decoder
    front = {
        "library_name": "tove",
        "pipeline_tag": "image-text-to-text" if decoder else "image-feature-extraction",
        "tags": ["tove", "clip", "vision-experts", *(["image-captioning"] if decoder else [])],
    }
    if bases := base_models(manifest):
        front["base_model"] = bases
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {repo.partition('/')[2]}",
        _about(manifest),
        "## Parts",
        _table(("part", "name", "offered by", "licence of its weights", "commercial use"), map(_row, parts)),
        "## Terms",
        "\n".join(f"- {line}" for line in _terms(manifest, parts)),
        "## Measured",
        _measured(measured),
        "## Use",
        _use(repo, manifest),
    ]
    return "\n\n".join(sections) + "\n"


def _about(manifest: Manifest) -> str:
    config = manifest.config
    kind = "a CLIP that was trained to give by itself what vision experts added to its tokens"
    if config.experts:
        kind = "a frozen CLIP into whose tokens frozen vision experts route what they know"
    elif not manifest.origin.own_tower:
        kind = "a frozen CLIP without experts"
    writes = "; a language model writes from these tokens" if config.decoder else ""
    trained = "" if manifest.trained else " It was never trained."
    selects = f" With a selector, {manifest.selection}." if manifest.selection else ""
    inside = "inside this repository" if manifest.full else "not in this repository: they are found by reference"
    return (
        f"A [tove](https://arxiv.org/abs/2504.00691) model: {kind}{writes}. Fusion: `{config.fusion.kind}`.{trained}"
        f"{selects} The frozen parts are {inside}. Written by tove {manifest.provenance.tove}."
    )


def _row(part: Part) -> tuple[str, ...]:
    if not part.owned:
        return part.what, part.name, part.source or "-", "no trained weights", "-"
    return part.what, part.name, part.source or "-", part.license or "not known to tove", _ALLOWED[part.commercial]


def _terms(manifest: Manifest, parts: Sequence[Part]) -> Iterator[str]:
    """Yield what whoever uses the model is to know, the strictest first."""
    owned = [part for part in parts if part.owned]
    forbid = [part for part in owned if part.commercial is False]
    unknown = [part for part in owned if part.commercial is None]
    if forbid:
        names = ", ".join(f"{part} ({part.license})" for part in forbid)
        yield f"**No commercial use**: {names} {'does' if len(forbid) == 1 else 'do'} not allow it."
    if unknown:
        yield f"Whether commercial use is allowed is not known of {', '.join(map(str, unknown))}: read their terms."
    if not forbid and not unknown:
        yield "The weights of all frozen parts allow commercial use, as their authors state it."
    if line := trained_inside(manifest):
        yield f"{line[0].upper()}{line[1:]}."
    yield "For what was trained here no licence is stated; its author adds one as `license:` above."


def _measured(measured: Sequence[Measured]) -> str:
    if not measured:
        return "Nothing was recorded with this checkpoint."
    rows = [
        (one.data, str(one.samples), one.task, row.name, f"{row.value:.4f}", _interval(row.low, row.high))
        for one in measured
        for row in one.rows
    ]
    return _table(("data", "samples", "task", "metric", "value", "95 % interval"), rows)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _use(repo: str, manifest: Manifest) -> str:
    experts = manifest.provenance.experts.values()
    plugins = sorted({(one.distribution, one.version) for one in experts if one.distribution not in (OWN, IN_PROCESS)})
    packages = " ".join([OWN, *(f"{name}=={version}" for name, version in plugins)])
    needed = f"```console\n$ pip install {packages}\n```"
    if mine := sorted({one.name for one in experts if one.distribution == IN_PROCESS}):
        needed += (
            f"\n\nThe experts {', '.join(f'`{name}`' for name in mine)} come from no plugin: the process that saved "
            "this registered them, and `tove_core.register` is to be run with their specs before loading."
        )
    last = 'print(model.caption("photo.jpg"))' if manifest.config.decoder else 'print(model.tokens("photo.jpg").shape)'
    code = f'from tove_core import ToveModel\nmodel = ToveModel.from_pretrained("{repo}")\n{last}'
    return f"{needed}\n\n```python\n{code}\n```"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
