from __future__ import annotations

import asyncio
import importlib.util
import re
import socket
import sys
from typing import Any

import pytest

from tove_core.app import serve
from tove_core.app.offline import POLICY, OwnOnly
from tove_core.errors import ConfigError


def test_a_port_that_is_taken_is_refused_when_it_was_asked_for_and_else_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} of 127\.0\.0\.1 cannot be listened on.*--port"):
            serve.free_port("127.0.0.1", port)
        monkeypatch.setattr(serve, "PORT", port)
        monkeypatch.setattr(serve, "TRIED", 1)
        with pytest.raises(ConfigError, match=f"no port of 127.0.0.1 from {port} to {port}"):
            serve.free_port("127.0.0.1")
        monkeypatch.setattr(serve, "TRIED", 50)
        assert port < serve.free_port("127.0.0.1") < port + 50
    assert serve.free_port("127.0.0.1", port) == port, "looking leaves nothing open"


@pytest.mark.parametrize("port", [None, 7999])
def test_a_host_that_is_not_this_machine_is_refused(port: int | None) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1.*cannot assign"):
        serve.free_port("192.0.2.1", port)


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    with pytest.raises(ConfigError, match=r"pip install 'tove-core\[app\]'"):
        serve.require_gradio()


def test_a_gradio_that_does_not_load_is_said_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(serve, "version", lambda name: "6.20.0")
    monkeypatch.setitem(sys.modules, "gradio", None)  # as an import that fails
    with pytest.raises(ConfigError, match="fails to load here"):
        serve.require_gradio()


def test_an_old_gradio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for old in ("5.50.1", "6.9.0"):
        monkeypatch.setattr(serve, "version", lambda name, old=old: old)
        with pytest.raises(ConfigError, match=f"gradio {re.escape(old)} and needs 6.20"):
            serve.require_gradio()
    monkeypatch.setitem(sys.modules, "gradio", object())
    for new in ("6.20.0", "6.100.0rc1", "10.0"):
        monkeypatch.setattr(serve, "version", lambda name, new=new: new)
        serve.require_gradio()


def test_every_answer_tells_browsers_to_load_nothing_from_elsewhere() -> None:
    sent: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"content"})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    asyncio.run(OwnOnly(page)({"type": "http"}, receive, send))
    assert sent[0]["headers"] == [(b"x", b"y"), (b"content-security-policy", POLICY.encode())]
    assert sent[0]["status"] == 200 and sent[1]["body"] == b"content"
    assert "http" not in POLICY and "*" not in POLICY
