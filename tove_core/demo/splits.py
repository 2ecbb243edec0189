"""Names the parts of the world: for pretraining, for training, for choosing settings and for the final test."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tove_core.demo.language import Question, ask
from tove_core.demo.scene import Scenes, render
from tove_core.errors import DataError


@dataclass(frozen=True)
class Split:
    """A part of the world: the scenes 0 to `size` of the sequence named by `seed`."""

    name: str
    seed: int
    size: int

    def scenes(self, start: int = 0, stop: int | None = None) -> Scenes:
        """Render the scenes from `start` to `stop` (default: the end of the split).

        Raises:
            DataError: the range is not within the split.
        """
        stop = self.size if stop is None else stop
        if not 0 <= start < stop <= self.size:
            raise DataError(
                f"scenes {start} to {stop} were asked of split '{self.name}', which has 0 to {self.size}; "
                "give a range within it"
            )
        return render(self.seed, start, stop)

    def questions(self, scenes: Scenes, per_scene: int = 12, start: int = 0) -> list[list[Question]]:
        """Return the questions about `scenes`, which begin at scene `start` of this split."""
        return ask(scenes, self.seed, per_scene, start)


PRETRAIN = Split("pretrain", 1, 12_000)
"""What the world's CLIP and experts were trained on; nothing else may be."""

TRAIN = Split("train", 2, 8_000)
VALIDATION = Split("validation", 3, 1_000)
"""Every setting is chosen on this."""

TEST = Split("test", 4, 1_500)
"""Read once, with everything chosen."""

SPLITS = {split.name: split for split in (PRETRAIN, TRAIN, VALIDATION, TEST)}


def split(name: str, size: int | None = None) -> Split:
    """Return the split called `name`, optionally of another size.

    Raises:
        DataError: there is no such split, or `size` is not positive.
    """
    if name not in SPLITS:
        raise DataError(f"split '{name}' was asked for, but the world has {', '.join(SPLITS)}; name one of them")
    if size is None:
        return SPLITS[name]
    if size < 1:
        raise DataError(f"a size of {size} was asked of split '{name}', but it must be positive; give at least 1")
    return replace(SPLITS[name], size=size)
