"""Accuracy of answers: VQA accuracy over ten annotators (Antol et al., ICCV 2015), and plain exact match.

Three versions of the official VQA script circulate. This follows the newest: where annotators disagree, both sides are
fully normalised; where all agree, the texts are compared as they are; and its list of punctuation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from tove_core.errors import DataError
from tove_core.evaluation.metrics.score import Candidates, References, Score, check_pairs, mean_score

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS_AND_COMMA = re.compile(r"\d,\d")
# The script means "a full stop not between digits"; a slip in it lets one after a digit go too: "2." becomes "2".
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS_REMOVED = 32  # the script hands re.UNICODE, which is 32, to sub() as its count
_NUMBERS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"},
    **{"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
"""Texts that are recognised with any one of their apostrophes left out."""


def _without_one_apostrophe(text: str) -> list[str]:
    return [text[: mark.start()] + text[mark.end() :] for mark in re.finditer("'", text)]


_APOSTROPHES = {bare: text for text in _CONTRACTED.split() for bare in _without_one_apostrophe(text)}
_APOSTROPHES["somebody'd"] = "somebodyd"  # the wrong way round in the script, and so here


def normalize_answer(answer: str) -> str:
    """Return an answer without case, articles, punctuation; numbers up to ten as digits; apostrophes put back."""
    without = answer
    numeral = _DIGITS_AND_COMMA.search(answer) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        without = without.replace(mark, "" if beside_space or numeral else " ")
    without = _FULL_STOP.sub("", without, count=_FULL_STOPS_REMOVED)
    words = [_NUMBERS.get(word, word) for word in without.lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(candidates: Candidates, references: References) -> Score:
    """Return VQA accuracy, 0 to 1.

    An answer that three or more of the other annotators gave is right, and each annotator is left out in turn: of ten,
    one who gave it makes 0.3, two 0.6, three 0.9, four 1. Not min(n/3, 1).

    Args:
        candidates: one answer per question.
        references: the annotators' answers per question, ten each as published, with repeats.

    Raises:
        DataError: the ids differ, there are none, or a question has a single answer, which leaves no others.
    """
    check_pairs(candidates, references)
    check_annotators(references)
    samples = {name: _leave_one_out(candidates[name], answers) for name, answers in references.items()}
    return mean_score("VQA accuracy (leave-one-out average)", samples)


def check_annotators(references: References) -> None:
    """Refuse questions that fewer than two annotators answered.

    Raises:
        DataError: there is one.
    """
    single = [name for name, answers in references.items() if len(answers) < 2]
    if single:
        raise DataError(
            f"{len(single)} of {len(references)} questions have a single answer (first: {single[0]!r}), but leaving "
            "one out needs others; use exact match"
        )


def _leave_one_out(candidate: str, answers: Sequence[str]) -> float:
    candidate = _one_line(candidate)
    answers = [_one_line(answer) for answer in answers]
    if len(set(answers)) > 1:
        candidate = normalize_answer(candidate)
        answers = [normalize_answer(answer) for answer in answers]
    return _of_agreeing(Counter(answers)[candidate], len(answers))


def _of_agreeing(said: int, annotators: int) -> float:
    # `said` times the annotator left out is one who agreed; the rest of the times all who agreed are still there.
    left = said * min(1.0, (said - 1) / 3) + (annotators - said) * min(1.0, said / 3)
    return left / annotators


def vqa_worth(answers: Sequence[str]) -> dict[str, float]:
    """Return what each answer that annotators gave to a question would score, answers not normalised but for case."""
    given = Counter(text.strip().lower() for text in answers)
    return {answer: _of_agreeing(said, len(answers)) for answer, said in given.items()}


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def exact_match(candidates: Candidates, references: References) -> Score:
    """Return the share of answers equal to one of the references but for case and space around, 0 to 1.

    Raises:
        DataError: the ids differ or there are none.
    """
    check_pairs(candidates, references)
    samples = {
        name: float(candidates[name].strip().lower() in {text.strip().lower() for text in texts})
        for name, texts in references.items()
    }
    return mean_score("exact match", samples)


def exact_worth(answers: Sequence[str]) -> dict[str, float]:
    """Return what each right answer of a question scores by exact match: all of it, however often it is given."""
    return {text.strip().lower(): 1.0 for text in answers}
