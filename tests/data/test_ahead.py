from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from tove_core.data.ahead import ReadAhead


class Counted:
    """Squares a number; remembers in which threads it was asked, and can be held up."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, number: int) -> int:
        self.go.wait(30)
        self.calls.append(number)
        self.threads.add(threading.current_thread().name)
        if number < 0:
            raise ValueError(f"{number} is negative")
        return number**2


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_is_given_depends_on_the_number_alone(workers: int) -> None:
    load = Counted()
    with ReadAhead(load, workers) as read:
        for start in range(0, 30, 7):
            read.expect([*range(start, start + 7), start, *range(start + 7, start + 14)])
            assert [read(n) for n in (*range(start, start + 7), 99)] == [n**2 for n in (*range(start, start + 7), 99)]
    assert (threading.current_thread().name in load.threads) and (len(load.threads) > 1) == (workers > 0)


def test_what_is_expected_is_loaded_once_and_before_it_is_asked_for() -> None:
    load = Counted()
    with ReadAhead(load, 1) as read:
        read.expect([3, 1, 3])
        read.expect([1, 2])  # 1 may be under way: it is not begun again
        assert (read(2), read(1), read(1)) == (4, 1, 1)
        assert load.calls.count(1) == load.calls.count(2) == 1 and load.threads == {"tove-read_0"}
        read.expect([])
        assert read(1) == 1 and load.calls.count(1) == 2  # forgotten, so loaded when asked for


def test_what_was_expected_and_is_not_any_more_is_not_loaded() -> None:
    load = Counted()
    load.go.clear()
    with ReadAhead(load, 1) as read:
        read.expect(range(10))
        read.expect([20])
        load.go.set()
        assert read(20) == 400
    assert len(load.calls) <= 2  # the one that had begun, at most


def test_an_error_comes_where_the_number_is_asked_for() -> None:
    with ReadAhead(Counted(), 2) as read:
        read.expect([1, -1, 2])
        assert (read(1), read(2)) == (1, 4)
        for _ in range(2):
            with pytest.raises(ValueError, match="-1 is negative"):
                read(-1)


def test_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("tove_core.data.ahead.time.perf_counter", lambda: clock[0])

    def load(number: int) -> int:
        clock[0] += 5
        return number

    read = ReadAhead(load, 0)
    assert (read(1), read(2), read.waited) == (1, 2, 10.0)
    with ReadAhead(load, 1) as read:
        read.expect([7])
        wait([*read._begun.values()])
        assert (read(7), read.waited) == (7, 0.0)


def test_closing_ends_the_threads() -> None:
    with ReadAhead(Counted(), 2) as read:
        read.expect(range(4))
    for thread in threading.enumerate():
        if thread.name.startswith("tove-read"):
            thread.join(60)
            assert not thread.is_alive()
    assert read(5) == 25  # it still answers
