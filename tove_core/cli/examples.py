"""An example or two of each command, shown at the end of its help."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "answer": ('tove answer RUN photo.jpg --question "what is on the table?"',),
    "app": ("tove app RUN --device cuda",),
    "bench claims": ("tove bench claims --out runs/claims",),
    "bench recipe": ("tove bench recipe docs/recipes/easy-vqa.yaml",),
    "cache build": ("tove cache build CONFIG.yaml --out CACHE --device cuda",),
    "cache info": ("tove cache info CACHE",),
    "cache prune": ("tove cache prune CACHE --keep clip --dry-run",),
    "cache verify": ("tove cache verify CACHE",),
    "caption": ("tove caption RUN photo.jpg --beams 3",),
    "clip retrieval": (
        "tove clip retrieval MERGED --reader coco-captions --data captions_val2017.json --images val2017",
    ),
    "clip zero-shot": ("tove clip zero-shot ViT-B-16/openai --data flowers.jsonl --device cuda",),
    "clip score": ("tove clip score ViT-B-16/openai EVALUATED",),
    "contributions": ("tove contributions RUN",),
    "data check": ("tove data check CONFIG.yaml", "tove data check coco-captions:PATH --set split=val"),
    "detach": ("tove detach RUN dinov2 --out SMALLER",),
    "diagnose": ("tove diagnose RUN --against OTHER --out FOLDER",),
    "doctor": ("tove doctor --device cuda",),
    "evaluate": ("tove evaluate RUN --split test --out EVALUATED",),
    "experts check": ("tove experts check depth",),
    "experts list": ("tove experts list --json",),
    "experts new": ("tove experts new depth",),
    "experts show": ("tove experts show dinov2:large",),
    "export": ("tove export MERGED --to llava --out LLAVA",),
    "merge": ("tove merge RUN --out MERGED --set steps=2000 --device cuda",),
    "plan": ("tove plan --experts dinov2,depth-anything", "tove plan CONFIG.yaml --train --measure"),
    "push": ("tove push RUN owner/name",),
    "runs compare": ("tove runs compare RUN OTHER",),
    "score": ("tove score EVALUATED", "tove score A --against B"),
    "select": ("tove select RUN --budget 0.4 --out CHOSEN",),
    "train": (
        "tove train CONFIG.yaml --set training.steps=2000 --device cuda",
        "tove train RUN --resume",
        "tove train RUN --add dinov2",
    ),
}
"""By command: what a user may type, with names in capitals for what is the user's own."""


def epilog(name: str) -> str | None:
    """Return what a command's help ends with; None where it has no example."""
    lines = EXAMPLES.get(name)
    return None if lines is None else "\n\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])
