from __future__ import annotations

import pytest

from tove_core.progress import Display


def lines(capsys: pytest.CaptureFixture[str], total: int, every: int, *done: int) -> list[str]:
    with Display(total, "predict", every=every) as display:
        for number in done:
            display.update(number, f"note {number}")
    return capsys.readouterr().err.splitlines()


def test_a_line_comes_whenever_a_multiple_is_reached_or_passed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(capsys, 700, 100, *range(128, 700, 128), 700)
    assert shown == [f"predict {n}/700 note {n}" for n in (128, 256, 384, 512, 640, 700)]
    assert lines(capsys, 7, 3, *range(1, 8)) == [f"predict {n}/7 note {n}" for n in (3, 6, 7)]


def test_the_last_line_says_how_far_it_came_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, 10, 4, 3, 6, 9) == [f"predict {n}/10 note {n}" for n in (6, 9)]
    assert lines(capsys, 10, 4, 5, 7) == [f"predict {n}/10 note {n}" for n in (5, 7)], "with some left out"
    assert lines(capsys, 10, 4, 5, 10, 10) == [f"predict {n}/10 note {n}" for n in (5, 10)]
    assert lines(capsys, 10, 4) == []


def test_what_is_quiet_or_failed_says_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(9, "predict", quiet=True, every=1) as display:
        display.update(5)
    with pytest.raises(ArithmeticError), Display(9, "predict", every=4) as display:
        display.update(3)
        raise ArithmeticError
    assert capsys.readouterr().err == ""
