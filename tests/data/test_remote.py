"""Shards from a server on this machine: whole, resumed, shared, and refused with one sentence."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from tove_core.config import DataConfig
from tove_core.data import remote
from tove_core.data.images import PackedImage
from tove_core.data.readers import read
from tove_core.data.remote import fetch_shard
from tove_core.data.shards import expanded, url_of
from tove_core.errors import DataError


def shard(first: int, count: int = 3) -> bytes:
    """Return a tar of pictures with captions."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for n in range(first, first + count):
            picture = io.BytesIO()
            Image.new("RGB", (5 + n, 3), (n, 0, 0)).save(picture, "PNG")
            for name, content in ((f"{n}.png", picture.getvalue()), (f"{n}.txt", f"text {n}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


class Server:
    """Files by path, faults by path in the order in which requests meet them, and every request that came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str | int]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.tags = True
        self.url = ""


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, asked = self.path.partition("?")[0], self.headers.get("Range")
            server.requests.append((path, asked))
            fault = (server.faults.get(path) or [None]).pop(0)
            if isinstance(fault, int) or path not in server.files:
                self.send_error(fault if isinstance(fault, int) else 404)
                return
            content = server.files[path]
            tag, first = f'"{hash(content)}"', 0
            if asked and server.tags and self.headers.get("If-Range") == tag:
                first = int(asked.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            if server.tags:
                self.send_header("ETag", tag)
            if fault != "unsized":
                self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            rest = content[first:]
            self.wfile.write(rest[: len(rest) // 2] if fault in ("cut", "stall", "unsized") else rest)
            self.wfile.flush()
            if fault == "stall":
                time.sleep(30)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    return Handler


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        state.files = {f"/data/part-{n:03}.tar": shard(10 * n) for n in range(3)}
        monkeypatch.setenv("TOVE_DATA_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("TOVE_OFFLINE", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
        yield state
        http.shutdown()
        thread.join()


def data(server: Server, name: str = "part-{000..002}.tar") -> DataConfig:
    return DataConfig(reader="webdataset", path=f"{server.url}/data/{name}")  # type: ignore[arg-type]


def test_shards_of_a_pattern_are_fetched_once_and_read_as_local_ones(server, tmp_path, capsys):
    samples = read(data(server))
    local = tmp_path / "local"
    local.mkdir()
    for path, content in server.files.items():
        (local / Path(path).name).write_bytes(content)
    wanted = read(DataConfig(reader="webdataset", path=local))
    assert samples == wanted and [s.load() for s in samples] == [s.load() for s in wanted]
    assert read(DataConfig(reader="webdataset", path=local / "part-{000..002}.tar")) == wanted
    assert isinstance(samples[0].image, PackedImage) and samples[4].id == "part-001/11"
    assert "fetching" in capsys.readouterr().err
    assert read(data(server)) == samples and len(server.requests) == 3
    assert not list((tmp_path / "cache").rglob("*.part*")) and not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.parametrize("variable", ["TOVE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_uses_what_is_there_and_asks_for_nothing_else(server, monkeypatch, variable):
    read(data(server, "part-001.tar"))
    monkeypatch.setenv(variable, "1")
    assert len(read(data(server, "part-001.tar"))) == 3 and len(server.requests) == 1
    with pytest.raises(DataError, match=r"/data/part-000\.tar is not in .* and downloads are switched off"):
        read(data(server))
    assert len(server.requests) == 1


def test_a_truncated_answer_is_continued(server, capsys):
    path, content = "/data/part-000.tar", server.files["/data/part-000.tar"]
    server.faults[path] = ["cut", "cut"]
    assert fetch_shard(server.url + path).read_bytes() == content
    half = len(content) // 2
    rest = half + (len(content) - half) // 2
    assert server.requests == [(path, None), (path, f"bytes={half}-"), (path, f"bytes={rest}-")]
    assert f"ended after {half:,} of {len(content):,} bytes; another try" in capsys.readouterr().err


def test_what_is_always_truncated_is_refused_and_never_taken_for_whole(server):
    server.tags = False  # without a tag nothing says that the rest belongs to the beginning
    path = "/data/part-000.tar"
    server.faults[path] = ["cut"] * 4
    with pytest.raises(DataError, match=r"part-000\.tar cannot be fetched after 4 tries \(the answer ended after"):
        fetch_shard(server.url + path)
    assert [asked for _, asked in server.requests] == [None] * 4
    assert fetch_shard(server.url + path).read_bytes() == server.files[path]


def test_a_shard_of_unknown_length_that_is_cut_off_is_refused_when_it_is_read(server):
    server.faults["/data/part-000.tar"] = ["unsized"]
    with pytest.raises(DataError, match=r"truncated|not a readable"):
        read(data(server, "part-000.tar"))


@pytest.mark.parametrize(("fault", "asked"), [(404, 1), (403, 1), (503, 4)])
def test_an_error_of_the_server_is_one_sentence_with_the_address_and_without_its_signature(server, fault, asked):
    server.faults["/data/part-000.tar"] = [fault] * 4
    with pytest.raises(
        DataError, match=rf"/data/part-000\.tar cannot be fetched.*the server answered {fault}"
    ) as error:
        read(data(server, "part-000.tar?signature=secret"))
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    assert len(server.requests) == asked


def test_a_passing_error_is_tried_again(server):
    server.faults["/data/part-000.tar"] = [503, 429]
    assert len(read(data(server, "part-000.tar"))) == 3


def test_a_server_that_is_not_there_is_named(server, monkeypatch):
    monkeypatch.setattr(remote, "WAITS", ())
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/x\.tar cannot be fetched"):
        fetch_shard("http://127.0.0.1:9/x.tar")


def test_a_killed_download_goes_on_where_it_was(server, tmp_path):
    path, content = "/data/part-000.tar", server.files["/data/part-000.tar"]
    server.faults[path] = ["stall"]
    code = f"from tove_core.data.remote import fetch_shard; fetch_shard({server.url + path!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ), stderr=subprocess.DEVNULL)
    half, deadline = len(content) // 2, time.monotonic() + 120
    while _have(tmp_path) < half and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "cache").rglob("part-000.tar")), "half a file must not look whole"
    assert _have(tmp_path) == half
    assert fetch_shard(server.url + path).read_bytes() == content
    assert server.requests == [(path, None), (path, f"bytes={half}-")]


def _have(folder: Path) -> int:
    return sum(part.stat().st_size for part in (folder / "cache").rglob("*.part"))


def test_a_file_that_changed_on_the_server_meanwhile_begins_again(server):
    path = "/data/part-000.tar"
    server.faults[path] = ["cut", 404]
    with pytest.raises(DataError, match="answered 404"):
        fetch_shard(server.url + path)
    server.files[path] = new = shard(5)
    assert fetch_shard(server.url + path).read_bytes() == new
    assert server.requests[2][1] is not None, "it was asked to go on, and the tag said no"


def test_several_that_want_one_shard_fetch_it_once(server):
    with ThreadPoolExecutor(4) as pool:
        files = set(pool.map(fetch_shard, [f"{server.url}/data/part-001.tar"] * 4))
    assert len(files) == 1 and len(server.requests) == 1


def test_a_cached_shard_of_another_length_is_refused(server):
    file = fetch_shard(f"{server.url}/data/part-000.tar")
    file.write_bytes(file.read_bytes()[:-512])
    with pytest.raises(DataError, match=r"part-000\.tar has .* bytes, but .* were fetched; delete it"):
        read(data(server, "part-000.tar"))
    file.unlink()
    assert len(read(data(server, "part-000.tar"))) == 3


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOVE_DATA_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be written .*TOVE_DATA_CACHE"):
        fetch_shard(f"{server.url}/data/part-000.tar")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{0..2}{x,y}", ["0x", "0y", "1x", "1y", "2x", "2y"]),
        ("{000..2}", ["000", "001", "002"]),
        ("{a}-{}", ["{a}-{}"]),
    ],
)
def test_patterns_mean_what_a_shell_means(pattern, names):
    assert expanded(pattern) == names


@pytest.mark.parametrize("pattern", ["{3..1}", "{0..9999}{0..9999}", "{0..99999999999}"])
def test_patterns_that_mean_nothing_or_too_much_are_refused(pattern):
    with pytest.raises(DataError, match=r"range|more than 1,000,000"):
        expanded(pattern)


def test_urls_survive_being_paths_and_other_schemes_are_refused():
    for url in ("https://host/a/b.tar?x=1", "http://127.0.0.1:80/{0..3}.tar"):
        assert url_of(Path(url)) == url
    assert url_of(Path("/data/a.tar")) is None and url_of(Path("C:/data/a.tar")) is None
    with pytest.raises(DataError, match="pipe:// was given"):
        url_of(Path("pipe://bucket/a.tar"))
