"""Trains everything the embedded world ships, from nothing: `python -m tove_core.demo.rebuild FOLDER`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tove_core.demo import pretrain_clip, pretrain_experts, pretrain_language, tokenizer
from tove_core.demo.layout import SIZE
from tove_core.demo.shipped import MANIFEST, sha256
from tove_core.demo.splits import PRETRAIN
from tove_core.errors import ConfigError

STAGES = ("tokenizer", "clip", "experts", "language")
"""What can be rebuilt, in order; the tokenizer is cheap and always trained when CLIP is."""

Report = Callable[[str], None]


def rebuild(out_dir: Path, stages: Sequence[str] = STAGES, report: Report = print) -> None:
    """Train what `stages` names into `out_dir` and write the manifest.

    The result is the same every time on one machine with one number of threads; elsewhere sums round differently.

    Raises:
        ConfigError: a stage is unknown.
    """
    unknown = sorted(set(stages) - set(STAGES))
    if unknown:
        raise ConfigError(f"stages {unknown} were asked for, but there are {list(STAGES)}; name some of these")
    words = tokenizer.train()
    if "tokenizer" in stages:
        report(f"tokenizer: {words.get_vocab_size()} entries")
        tokenizer.save(tokenizer.for_language(words), out_dir / "tokenizer")
    if {"clip", "experts"} & set(stages):
        report(f"scenes: rendering {PRETRAIN.size} for pretraining")
        scenes = PRETRAIN.scenes()
        if "clip" in stages:
            model = pretrain_clip.pretrain(words, scenes, report=report)
            pretrain_clip.export(model, words, out_dir / "clip")
        if "experts" in stages:
            pretrain_experts.pretrain_all(out_dir, scenes, report=report)
    if "language" in stages:
        # The language model reads the tokens of the CLIP in `out_dir`, so that must be there by now.
        pretrain_language.pretrain(out_dir, report=report)
    write_manifest(out_dir)


def write_manifest(out_dir: Path) -> None:
    """Write the hash and size of every file below `out_dir`, and the cost of every expert, to its manifest."""
    entries: dict[str, dict[str, Any]] = {}
    for file in sorted(path for path in out_dir.rglob("*") if path.is_file() and path.name != MANIFEST):
        entry: dict[str, Any] = {"sha256": sha256(file), "bytes": file.stat().st_size}
        if file.parent == out_dir and file.stem in pretrain_experts.RECIPES:
            entry |= cost(pretrain_experts.RECIPES[file.stem].build())
        entries[file.relative_to(out_dir).as_posix()] = entry
    (out_dir / MANIFEST).write_text(json.dumps({"format": 1, "files": entries}, indent=2) + "\n", encoding="utf-8")


def cost(expert: torch.nn.Module) -> dict[str, int]:
    """Return the parameters of `expert` and the operations one image costs it, multiply-adds counted as two."""
    # The counter's hooks do not work under no_grad, so gradients are switched off at the parameters.
    expert.eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        expert(torch.zeros(1, 3, SIZE, SIZE))
    return {"params": sum(p.numel() for p in expert.parameters()), "flops": counter.get_total_flops()}


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tove_core.demo.rebuild FOLDER [STAGE ...]")
    rebuild(Path(sys.argv[1]), sys.argv[2:] or STAGES)
