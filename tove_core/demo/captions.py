"""Says in words what a scene shows: what CLIP is pretrained on, and what a captioner should say."""

from __future__ import annotations

import random

from tove_core.demo.layout import COLOURS, KINDS, SIZE
from tove_core.demo.scene import Facts, Scenes, facts

PROMPT = "describe the scene:"
"""What asks a captioner for a scene caption."""

MENTIONED = 3
"""Objects a scene caption mentions at most, nearest first."""

_OPENINGS = ("", "we see ", "there is ", "a picture of ", "a scene with ", "showing ")
_JOINTS = (", ", " and ", " with ")

Named = list[tuple[str, str]]


def name(colour: str, kind: str) -> str:
    """Return what one object is called."""
    return f"a {colour} {kind}"


def clip_captions(scenes: Scenes, seed: int, start: int = 0) -> list[tuple[str, str, str]]:
    """Return per scene a caption that names every object, and two that are wrong by as little as possible.

    In the second one object has another kind; in the third two objects of different kinds have exchanged colours (or,
    where there are no two such objects, one has another colour).
    """
    found = []
    for i, scene in enumerate(facts(scenes)):
        rng = random.Random(f"caption {seed} {start + i}")
        objects = list(zip(scene.colours, scene.kinds, strict=True))
        rng.shuffle(objects)
        opening, joint = rng.choice(_OPENINGS), rng.choice(_JOINTS)
        variants = (objects, _other_kind(objects, rng), _other_colours(objects, rng))
        right, kind, colour = (opening + joint.join(name(*o) for o in variant) for variant in variants)
        found.append((right, kind, colour))
    return found


def scene_captions(scenes: Scenes) -> list[list[str]]:
    """Return two reference captions per scene, which tell depth order and side of the nearest objects."""
    return [_references(scene) for scene in facts(scenes)]


def _references(scene: Facts) -> list[str]:
    order = sorted(range(len(scene)), key=scene.z.__getitem__)[:MENTIONED]
    names = [name(scene.colours[k], scene.kinds[k]) for k in order]
    sides = ["on the left" if scene.x[k] < SIZE / 2 else "on the right" for k in order]
    after = " in front of ".join(f"{n} {s}" for n, s in zip(names, sides, strict=True))
    behind = ", behind it ".join(f"{n} {s}" for n, s in zip(names, sides, strict=True))
    return [after, behind]


def _other_kind(objects: Named, rng: random.Random) -> Named:
    changed = list(objects)
    k = rng.randrange(len(objects))
    colour, kind = objects[k]
    changed[k] = (colour, rng.choice([other for other in KINDS if other != kind]))
    return changed


def _other_colours(objects: Named, rng: random.Random) -> Named:
    changed = list(objects)
    n = range(len(objects))
    pairs = [(a, b) for a in n for b in n if a < b and objects[a][1] != objects[b][1]]
    if pairs:
        a, b = rng.choice(pairs)
        changed[a], changed[b] = (objects[b][0], objects[a][1]), (objects[a][0], objects[b][1])
    else:
        k = rng.randrange(len(objects))
        used = {colour for colour, _ in objects}
        changed[k] = (rng.choice([c for c in COLOURS if c not in used]), objects[k][1])
    return changed
