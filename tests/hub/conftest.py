"""A hub endpoint on this machine, and experts small enough to build in a test."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from huggingface_hub import close_session, constants

from tove_core.hub.lock import Lock
from tove_core.spec import ExpertSpec, Grid, Input

A, B = "a" * 40, "b" * 40


Answer = tuple[int, dict[str, str], bytes]


class FakeHub:
    """Answers as a hub endpoint does: repositories have commits, `main` may move, every request is remembered.

    What is pushed goes the way of git LFS where it is safetensors, as on the hub, and every other file in the commit.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, dict[str, bytes]]] = {}
        self.main: dict[str, str] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.private: set[str] = set()
        self.owners: dict[str, set[str]] = {}
        """Whose repositories a token may write to."""
        self.large: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.url = self.storage = ""  # large files lie on another host, as on the hub

    def commit(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        """Add a commit and move `main` to it."""
        self.files.setdefault(repo, {})[commit] = files
        self.main[repo] = commit

    def commit_of(self, repo: str, revision: str) -> str:
        """Return the commit that a branch is at, or the revision itself."""
        return self.main[repo] if revision == "main" else self.branches.get((repo, revision), revision)

    def answer(self, path: str) -> Answer:
        """Return status, headers and body of a request that changes nothing."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "lfs":
            return 200, {}, self.large[parts[1]]
        api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        verb, revision, *rest = (parts[4:] if api else parts[2:]) or ("revision", "main")
        commit = self.commit_of(repo, revision)
        if commit not in self.files[repo]:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = self.files[repo][commit]
        if verb == "revision":
            return (
                200,
                {},
                json.dumps(
                    {
                        "id": repo,
                        "sha": commit,
                        "private": repo in self.private,
                        "siblings": [{"rfilename": f} for f in files],
                    }
                ).encode(),
            )
        if verb == "tree":
            tree = [{"type": "file", "path": f, "size": len(b), "oid": _etag(b)} for f, b in files.items()]
            return 200, {}, json.dumps(tree).encode()
        name = "/".join(rest)
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        digest = hashlib.sha256(files[name]).hexdigest()
        if digest in self.large:
            linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(files[name]))}
            return 302, {"X-Repo-Commit": commit, "Location": f"{self.storage}/lfs/{digest}", **linked}, b""
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{_etag(files[name])}"'}, files[name]

    def write(self, path: str, token: str, body: bytes) -> Answer:
        """Do what a POST or PUT asks for."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "lfs":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.large[parts[1]] = body
            return 200, {}, b""
        if parts == ["api", "validate-yaml"]:
            return 200, {}, b"{}"
        if token not in self.owners:
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        asked: Any = json.loads(body) if parts[-2] != "commit" else None
        repo = f"{asked['organization']}/{asked['name']}" if parts[1] == "repos" else "/".join(parts[2:4])
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            return 200, {}, json.dumps({"transfer": "basic", "objects": self._large(asked["objects"])}).encode()
        if repo.partition("/")[0] not in self.owners[token]:
            return 403, {"X-Error-Message": "You have no write access"}, b""
        match parts[1:]:
            case ["repos", "create"]:
                return self._create(repo, asked)
            case ["models", _, _, "branch", name]:
                there = (repo, name) in self.branches
                self.branches.setdefault((repo, name), self.main[repo])
                return 409 if there else 200, {}, b"{}"
            case ["models", _, _, "preupload", _]:
                modes = [{"path": f["path"], "shouldIgnore": False, "uploadMode": _mode(f["path"])}
                         for f in asked["files"]]  # fmt: skip
                return 200, {}, json.dumps({"files": modes}).encode()
            case ["models", _, _, "commit", revision]:
                return self._commit(repo, revision, [json.loads(line) for line in body.splitlines()])
        return 404, {}, b""

    def _create(self, repo: str, asked: Any) -> Answer:
        if repo in self.files:
            return 409, {}, json.dumps({"url": f"{self.url}/{repo}"}).encode()
        self.commit(repo, f"{len(self.files):040x}", {".gitattributes": b"*.safetensors filter=lfs\n"})
        if asked.get("visibility") == "private" or asked.get("private"):
            self.private.add(repo)
        return 200, {}, json.dumps({"url": f"{self.url}/{repo}"}).encode()

    def _large(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        missing = [one for one in objects if one["oid"] not in self.large]
        for one in missing:
            one["actions"] = {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}
        return objects

    def _commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> Answer:
        files = dict(self.files[repo][self.commit_of(repo, revision)])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                large = line["key"] == "lfsFile"
                files[value["path"]] = self.large[value["oid"]] if large else base64.b64decode(value["content"])
        commit = hashlib.sha1(repr((repo, revision, sorted(files), len(self.messages))).encode()).hexdigest()
        self.files[repo][commit] = files
        if revision == "main":
            self.main[repo] = commit
        else:
            self.branches[repo, revision] = commit
        return 200, {}, json.dumps({"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit}).encode()


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._respond(with_body=False)

        def do_GET(self) -> None:
            self._respond(with_body=True)

        def do_POST(self) -> None:
            self._respond(with_body=True, write=True)

        do_PUT = do_POST

        def _respond(self, with_body: bool, write: bool = False) -> None:
            path = urlsplit(self.path).path
            hub.requests.append(f"{self.command} {path}")
            if write:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, headers, body = hub.write(path, token, sent)
            else:
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
    # Without it safetensors go to a storage of their own, which only the real hub has.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.storage = f"http://localhost:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
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
