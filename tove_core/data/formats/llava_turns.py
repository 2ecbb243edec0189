"""Who says what in a conversation: LLaVA's turns of "from" and "value", and chat messages of "role" and "content"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tove_core.data.files import checked_text, required_key
from tove_core.errors import DataError
from tove_core.language.marks import IMAGE

_SPEAKERS = {"human": 0, "user": 0, "gpt": 1, "assistant": 1}
"""Whether a speaker asks (0) or answers (1)."""
_LLAVA = ("human", "gpt")
_SYSTEM = "system"
_PARTS = '{"type": "text", "text": ...} or {"type": "image"}'


class Talk(NamedTuple):
    """A conversation, its texts without blanks around them and with all their marks."""

    system: str
    """What stands before the first question; "" for nothing."""
    texts: list[str]
    """Question, answer, question, ..."""
    first: int
    """Which item of the list the first question is."""


def turns_of(record: Mapping[str, Any], where: str) -> Any:
    """Return what stands under the key of the turns, as it is.

    Raises:
        DataError: the record has no such key, or two.
    """
    # Asked for one by one, here and below: a data set has millions of conversations.
    if "messages" not in record:
        if "conversations" in record:
            return record["conversations"]
        raise DataError(
            f"{where} has neither 'conversations' nor 'messages' (it has {', '.join(record) or 'nothing'}); name the "
            "turns so, or set data.reader to the reader of this format"
        )
    if "conversations" in record:
        raise DataError(f"{where} has both 'conversations' and 'messages', but one is wanted; take one out")
    return record["messages"]


def shows_inside(said: Any) -> bool:
    """Whether a turn has something else than text in its parts, as an image."""
    contents = [part.get("content", part.get("value")) for part in _listed(said) if isinstance(part, dict)]
    inside = [one for content in contents for one in _listed(content)]
    return any(not isinstance(one, dict) or one.get("type") != "text" for one in inside)


def talk(record: Mapping[str, Any], said: Any, where: str) -> Talk:
    """Return who says what: perhaps a system text, then questions with an answer each.

    Args:
        said: what `turns_of` gave.

    Raises:
        DataError: there is something else.
    """
    turns, system = _listed(said), record.get("system") or ""
    if not system and (texts := _common(turns)):
        return Talk("", texts, 0)
    first, name = 0, "system"
    if turns and _named(turns[0], where)[1] == _SYSTEM:
        first, name = 1, _named(turns[0], where)[2]
        own = _plain(required_key(turns[0], name, where), where, 0)
        if system and own:
            raise DataError(f"{where} has a system text of its own and one as a turn, but one is wanted; take one out")
        system = system or own
    if len(turns) == first or (len(turns) - first) % 2:
        raise DataError(f"{where} has no conversation of questions with an answer each; repair it or take it out")
    texts = [_said(turns[turn], turn, first, where) for turn in range(first, len(turns))]
    return Talk("" if system == "" else _system(system, name, where), texts, first)


def _common(turns: list[Any]) -> list[str] | None:
    """Return the texts where every turn is as most are, ASCII with nothing to find fault with; None where one is not.

    A data set has millions of conversations, and looking at each turn by itself takes twice as long.
    """
    by_role = bool(turns) and isinstance(turns[0], dict) and "role" in turns[0]
    speaker, content, speakers = ("role", "content", ("user", "assistant")) if by_role else ("from", "value", _LLAVA)
    texts = []
    for turn, part in enumerate(turns):
        if type(part) is not dict or part.get(speaker) != speakers[turn & 1] or (not by_role and "role" in part):
            return None
        value = part.get(content)
        if type(value) is not str or not value.isascii() or not (text := value.strip()):
            return None
        texts.append(text)
    return texts if len(texts) % 2 == 0 else None


def _said(part: Any, turn: int, first: int, where: str) -> str:
    """Return what is said in a turn, by whom it should be."""
    key, speaker, content = _named(part, where)
    answers = (turn - first) % 2
    if not isinstance(speaker, str) or _SPEAKERS.get(speaker) != answers:
        wanted = (("human", "gpt") if key == "from" else ("user", "assistant"))[answers]
        first_alone = "; a system turn only comes first, and once" if speaker == _SYSTEM else ""
        raise DataError(
            f"{where} turn {turn} is from {speaker!r:.60}, but {wanted!r} is wanted{first_alone}; repair it"
        )
    value = required_key(part, content, where)
    return checked_text(_plain(value, where, turn) if isinstance(value, list) else value, content, where)


def _named(part: Any, where: str) -> tuple[str, Any, str]:
    """Return the key of a turn's speaker, the speaker, and the key of what is said."""
    if isinstance(part, dict):
        if "role" in part:
            return "role", part["role"], "content"
        if "from" in part:
            return "from", part["from"], "value"
    return "from", required_key(part, "from", where), "value"


def _system(value: Any, name: str, where: str) -> str:
    text = checked_text(value, name, where)
    if IMAGE in text:
        raise DataError(f"{where} has {IMAGE} in its system text, but it belongs into the first question; move it")
    return text


def _plain(content: Any, where: str, turn: int) -> Any:
    """Return a list of parts as one text, with a mark for each image; anything else as it is."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        told = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
        if told == {"type": "image"}:
            texts.append(IMAGE)
        elif told.keys() == {"type", "text"} and told["type"] == "text" and isinstance(told["text"], str):
            texts.append(told["text"])
        else:
            raise DataError(
                f"{where} turn {turn} has the part {part!r:.60}, but {_PARTS} is wanted, and paths of images under "
                "'images'; repair it"
            )
    return "".join(texts)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
