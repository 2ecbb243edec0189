"""Requests of several rounds, in which the task writes the next question when it has seen the last answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tove_core.errors import DataError
from tove_core.evaluation.lmms_eval.answers import Answers, Asked

Turn = tuple[Any, str, bool, Sequence[str], Any]
"""What a task gives after an answer: visuals, prompt, whether it is over, all answers so far, and its own notes."""


@dataclass
class Talk:
    """One request.

    Attributes:
        prompt: of the first round.
        images: opens the images of the first round.
        place: names the document.
        options: how to generate, in every round.
        go_on: takes the answers so far, the number of the next round and the task's notes; gives the next turn.
        said: the answers so far.
        notes: the task's.
    """

    prompt: str
    images: Callable[[], Sequence[Any] | None]
    place: Hashable
    options: Mapping[str, Any]
    go_on: Callable[[list[str], int, Any], Turn]
    said: list[str] = field(default_factory=list)
    notes: Any = None

    def turn(self) -> bool:
        """Take the task's next turn; return whether there is one.

        Raises:
            DataError: the task gave something else than a turn.
        """
        given = self.go_on(list(self.said), len(self.said), self.notes)
        if not isinstance(given, tuple | list) or len(given) != 5:
            raise DataError(
                f"the task of request {self.place} gave {type(given).__name__} after round {len(self.said)}, but "
                "visuals, prompt, end, answers and notes are wanted; choose another task"
            )
        visuals, prompt, over, said, self.notes = given
        self.said = list(said)
        if not over:
            self.prompt, self.images = prompt, lambda: visuals
        return not over


def answer_rounds(answers: Answers, talks: Sequence[Talk]) -> list[list[str]]:
    """Return each request's answers, round after round; every round of all requests is answered together.

    A round's prompt is all that the model reads: what was said before is in it where the task repeats it.

    Raises:
        DataError: as for `Answers.generate`, or the task gave something else than a turn.
    """
    going, number = list(talks), 0
    while going:
        asked = [Asked(talk.prompt, talk.images, (talk.place, number)) for talk in going]
        for talk, text in zip(going, answers.generate(asked, [talk.options for talk in going]), strict=True):
            talk.said.append(text)
        going, number = [talk for talk in going if talk.turn()], number + 1
    return [talk.said for talk in talks]
