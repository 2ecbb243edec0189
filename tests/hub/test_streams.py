"""Tasks on streams of their own, with streams that only note who waits for whom: real ones need a GPU."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from tove_core.hub import streams

CUDA = torch.device("cuda", 0)


class Noted:
    """A stream that notes what it waits for."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append((self.name, other.name))


@pytest.fixture
def waits(monkeypatch):
    log = []
    current = Noted("current", log)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(streams, "_stream", lambda device, slot: Noted(slot, log))
    return log


def test_streams_beside_the_current_one_begin_after_it_and_are_joined(waits):
    tasks = {name: lambda n=name: torch.tensor([ord(n)]) for name in "abc"}
    found = streams.run_beside(tasks, {"c": CUDA, "a": CUDA})
    assert [(name, int(value)) for name, value in found.items()] == [("a", 97), ("b", 98), ("c", 99)]
    assert waits == [(0, "current"), (1, "current"), ("current", 0), ("current", 1)]


def test_after_an_error_streams_are_joined_too(waits):
    def fails():
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        streams.run_beside({"a": lambda: torch.zeros(1), "b": fails}, {"a": CUDA, "b": CUDA})
    assert ("current", 0) in waits and ("current", 1) in waits
