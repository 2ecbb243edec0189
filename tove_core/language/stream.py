"""Generated text as it comes, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Queue
from threading import Thread
from typing import Any

from transformers.generation.streamers import BaseStreamer

from tove_core.language.prompt import PromptLayout


class _Closed(Exception):
    """Nobody reads any more; ends generation from within."""


class TextStream(BaseStreamer):
    """Collects token ids from `generate` and hands out text that later tokens can no longer change.

    The last word is held back until a blank follows it. Everything is decoded again at every step, so that the pieces
    joined are exactly the text that `generate` returns.

    Args:
        layout: decodes ids to an answer.
    """

    def __init__(self, layout: PromptLayout) -> None:
        self._layout = layout
        self._ids: list[int] = []
        self._given = 0
        self._prompt = True
        self._closed = False
        self._queue: Queue[str | BaseException | None] = Queue()

    def put(self, value: Any) -> None:
        """Take token ids from the generating thread; the first call brings the prompt, which is not shown."""
        if self._closed:
            raise _Closed
        if self._prompt:
            self._prompt = False
            return
        self._ids.extend(value.reshape(-1).tolist())
        text = self._layout.decode(self._ids)
        self._give(text[: max(text.rfind(" "), text.rfind("\n")) + 1])

    def end(self) -> None:
        """Give what was held back; called when generation has finished."""
        self._give(self._layout.decode(self._ids))
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """End the stream with an error, which the reader gets."""
        self._queue.put(error)

    def close(self) -> None:
        """Let generation end at its next token; from any thread."""
        self._closed = True

    def __iter__(self) -> Iterator[str]:
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def _give(self, text: str) -> None:
        if len(text) > self._given:
            self._queue.put(text[self._given :])
            self._given = len(text)


def stream(layout: PromptLayout, generate: Callable[[TextStream], object]) -> Iterator[str]:
    """Run `generate` with a streamer in a thread of its own and yield text while it works.

    Whoever closes the iterator, or lets go of it, before the end stops the thread at its next token; that token is not
    waited for.
    """
    pieces = TextStream(layout)

    def work() -> None:
        try:
            generate(pieces)
        except _Closed:
            pass
        except BaseException as error:
            pieces.fail(error)

    thread = Thread(target=work, name="tove-stream", daemon=True)
    thread.start()
    try:
        yield from pieces
    finally:
        pieces.close()
    thread.join()
