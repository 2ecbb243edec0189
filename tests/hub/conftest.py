"""A hub endpoint on this machine, and experts small enough to build in a test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from huggingface_hub import close_session, constants

from tove_core.hub.lock import Lock
from tove_core.spec import ExpertSpec, Grid, Input

A, B = "a" * 40, "b" * 40


class FakeHub:
    """Answers as a hub endpoint does: repositories have commits, `main` may move, every request is remembered."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.main: dict[str, str] = {}
        self.requests: list[str] = []

    def commit(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        """Add a commit and move `main` to it."""
        self.files.setdefault(repo, {})[commit] = files
        self.main[repo] = commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a request."""
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        verb, revision, *rest = parts[4:] if api else parts[2:]
        commit = self.main[repo] if revision == "main" else revision
        if commit not in self.files[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.files[repo][commit]
        if verb == "revision":
            return (
                200,
                {},
                json.dumps({"id": repo, "sha": commit, "siblings": [{"rfilename": f} for f in files]}).encode(),
            )
        if verb == "tree":
            tree = [{"type": "file", "path": f, "size": len(b), "oid": _etag(b)} for f, b in files.items()]
            return 200, {}, json.dumps(tree).encode()
        name = "/".join(rest)
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{_etag(files[name])}"'}, files[name]


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._respond(with_body=False)

        def do_GET(self) -> None:
            self._respond(with_body=True)

        def _respond(self, with_body: bool) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = hub.answer(path)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return Lock(tmp_path / "home" / "weights.lock.json")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and home of their own, online."""
    for name in ("TOVE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    close_session()
    yield hub
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()


_EXPERT = """
import torch
from torch import nn

class Patches(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, stride, stride)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, pixels):
        return {"map": self.norm(self.conv(pixels))}

def build(ctx):
    grid = ctx.spec.outputs["map"]
    return Patches(grid.channels, grid.stride)

def strip(state):
    return {key.removeprefix("model."): value for key, value in state.items()}
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a module that can be imported during the test."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(name: str, text: str) -> None:
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
        (folder / f"{name}.py").write_text(text)

    return write


@pytest.fixture
def make_spec(write_module: Callable[[str, str], None]) -> Callable[..., ExpertSpec]:
    """Return specs of a small convolutional expert that really can be built."""
    write_module("tiny_expert", _EXPERT)

    def make(name: str = "tiny", **changes: object) -> ExpertSpec:
        fields: dict[str, object] = {
            "api": 1,
            "name": name,
            "summary": "One convolution.",
            "factory": "tiny_expert:build",
            "input": Input(size=(8, 12), patch=4),
            "outputs": {"map": Grid(channels=5, stride=4, norm="fixed")},
        }
        return ExpertSpec.model_validate(fields | changes)

    return make


@pytest.fixture
def keep_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield
