"""Asks questions with one-word answers about rendered scenes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tove_core.demo.layout import KINDS
from tove_core.demo.scene import Facts, Scenes, facts

PLURALS = {"disc": "discs", "square": "squares", "triangle": "triangles", "ring": "rings", "cross": "crosses"}

_THIRDS = (17.0, 31.0)  # pixels at which an image is cut into three columns and three rows
_CLEAR = 1.0  # pixels around a cut that no question asks about
_APART = 4.0  # pixels by which objects must differ to be left or right of, above or below, one another
_NEAR, _FAR = 0.34, 0.66  # depths that end "near" and begin "far"


@dataclass(frozen=True)
class Question:
    """A question about one scene; `answer` is a single word."""

    type: str
    text: str
    answer: str


Asked = tuple[str, str] | None
Ask = Callable[[Facts, random.Random], Asked]


def ask(scenes: Scenes, seed: int, per_scene: int = 12, start: int = 0) -> list[list[Question]]:
    """Return `per_scene` questions about each scene: one of every type it allows, then types at random.

    Args:
        scenes: the scenes.
        seed: names the sequence of questions; scene i always gets the same ones.
        per_scene: questions per scene.
        start: number of the first scene within its split.
    """
    return [
        _about(scene, random.Random(f"question {seed} {start + i}"), per_scene) for i, scene in enumerate(facts(scenes))
    ]


def _about(scene: Facts, rng: random.Random, wanted: int) -> list[Question]:
    names = list(_ASK)
    rng.shuffle(names)
    found: list[Question] = []
    while len(found) < wanted:
        for name in names:
            asked = _ASK[name](scene, rng)
            if asked is not None and len(found) < wanted:
                found.append(Question(name, *asked))
        rng.shuffle(names)
    return found


def _kind(scene: Facts, rng: random.Random) -> Asked:
    k = rng.randrange(len(scene))
    return _word(rng, _WORDINGS["kind"], scene.colours[k]), scene.kinds[k]


def _column(scene: Facts, rng: random.Random) -> Asked:
    k = rng.randrange(len(scene))
    return _third(rng, "column", scene.colours[k], scene.x[k], ("left", "middle", "right"))


def _row(scene: Facts, rng: random.Random) -> Asked:
    k = rng.randrange(len(scene))
    return _third(rng, "row", scene.colours[k], scene.y[k], ("top", "middle", "bottom"))


def _far(scene: Facts, rng: random.Random) -> Asked:
    k = rng.randrange(len(scene))
    answer = "near" if scene.z[k] < _NEAR else "far" if scene.z[k] > _FAR else "middle"
    return _word(rng, _WORDINGS["far"], scene.colours[k]), answer


def _side(scene: Facts, rng: random.Random) -> Asked:
    return _relation(rng, "side", scene, scene.x, ("left", "right"), _APART)


def _height(scene: Facts, rng: random.Random) -> Asked:
    return _relation(rng, "height", scene, scene.y, ("above", "below"), _APART)


def _order(scene: Facts, rng: random.Random) -> Asked:
    return _relation(rng, "order", scene, scene.z, ("front", "behind"), 0.0)


def _touch(scene: Facts, rng: random.Random) -> Asked:
    if len(scene) == 1:
        return None
    # Scenes where something touches are a little more frequent than scenes where something does not.
    answer = "yes" if rng.random() < 0.46 else "no"
    fitting = [k for k, row in enumerate(scene.touches) if any(row) == (answer == "yes")]
    return (_word(rng, _WORDINGS["touch"], scene.colours[rng.choice(fitting)]), answer) if fitting else None


def _count(scene: Facts, rng: random.Random) -> Asked:
    if rng.random() < 0.5:
        return _word(rng, _WORDINGS["count"], "objects"), str(len(scene))
    # The number is drawn before the kind: otherwise 1 would be the answer most of the time.
    times = Counter(scene.kinds)
    present = sorted(set(times.values()))
    number = 0 if rng.random() < 0.3 else rng.choices(present, weights=[n * n for n in present])[0]
    kind = rng.choice([k for k in KINDS if times[k] == number])
    return _word(rng, _WORDINGS["count"], PLURALS[kind]), str(number)


def _extreme(scene: Facts, rng: random.Random) -> Asked:
    if len(scene) == 1:
        return None
    near = rng.random() < 0.5
    k = (min if near else max)(range(len(scene)), key=scene.z.__getitem__)
    return _word(rng, _WORDINGS["extreme"], rng.choice(_NEAREST if near else _FARTHEST)), scene.colours[k]


def _word(rng: random.Random, wordings: tuple[str, ...], *names: str) -> str:
    return rng.choice(wordings).format(*names)


def _third(rng: random.Random, name: str, colour: str, position: float, answers: tuple[str, str, str]) -> Asked:
    if min(abs(position - cut) for cut in _THIRDS) < _CLEAR:
        return None
    return _word(rng, _WORDINGS[name], colour), answers[sum(position > cut for cut in _THIRDS)]


def _relation(
    rng: random.Random, name: str, scene: Facts, values: list[float], answers: tuple[str, str], apart: float
) -> Asked:
    n = range(len(scene))
    pairs = [(a, b) for a in n for b in n if a != b and abs(values[a] - values[b]) > apart]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    question = _word(rng, _WORDINGS[name], scene.colours[a], scene.colours[b])
    return question, answers[0] if values[a] < values[b] else answers[1]


_WORDINGS: dict[str, tuple[str, ...]] = {
    "kind": ("what shape is the {} one?", "which shape is the {} one?", "what kind of thing is the {} one?"),
    "column": ("which column holds the {} one?", "in which column is the {} one?", "what is the column of the {} one?"),
    "row": ("which row holds the {} one?", "in which row is the {} one?", "what is the row of the {} one?"),
    "far": ("how far away is the {} one?", "how distant is the {} one?", "what is the depth of the {} one?"),
    "side": (
        "is the {} one left or right of the {} one?",
        "is the {} one right or left of the {} one?",
        "does the {} one lie left or right of the {} one?",
    ),
    "height": (
        "is the {} one above or below the {} one?",
        "is the {} one below or above the {} one?",
        "does the {} one lie above or below the {} one?",
    ),
    "order": (
        "is the {} one in front of or behind the {} one?",
        "is the {} one behind or in front of the {} one?",
    ),
    "touch": (
        "is anything touching the {} one?",
        "does anything touch the {} one?",
        "is there contact with the {} one?",
    ),
    "count": ("how many {} are there?", "what is the number of {}?", "count the {}."),
    "extreme": ("which colour is {}?", "what colour is the one {}?", "what is the colour of the thing {}?"),
}
_NEAREST = ("nearest", "closest")
_FARTHEST = ("farthest", "most distant")

_ASK: dict[str, Ask] = {
    "kind": _kind,
    "column": _column,
    "row": _row,
    "far": _far,
    "side": _side,
    "height": _height,
    "order": _order,
    "touch": _touch,
    "count": _count,
    "extreme": _extreme,
}

TYPES = tuple(_ASK)
"""The types of question."""
