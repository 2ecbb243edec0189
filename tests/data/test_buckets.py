"""Shards that fsspec brings, from a file system of this test's own that can fail as real ones do."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import register_implementation

from tove_core.config import DataConfig
from tove_core.data import buckets, remote
from tove_core.data.readers import read
from tove_core.data.remote import fetch_shard
from tove_core.data.shards import url_of
from tove_core.errors import DataError

CONTENT = bytes(range(256)) * 20_000  # several blocks
URL = "toybucket://bucket/part-000.tar"


class ToyFile:
    """A file that ends, or fails, where the test says."""

    def __init__(self, system: type[ToySystem], file: Any) -> None:
        self.system, self.file = system, file

    def __enter__(self) -> ToyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, place: int) -> None:
        if not self.system.seekable:
            raise OSError("only from the beginning")
        self.system.seeks.append(place)
        self.file.seek(place)

    def read(self, most: int) -> bytes:
        fault = self.system.faults.pop(0) if self.system.faults else None
        if isinstance(fault, Exception):
            raise fault
        return b"" if fault == "end" else self.file.read(most)


class ToySystem(MemoryFileSystem):
    """A bucket."""

    protocol = "toybucket"
    store: ClassVar[dict[str, Any]] = {}  # not the one that all MemoryFileSystems share
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[list[Exception | str | None]] = []
    seeks: ClassVar[list[int]] = []
    tag: str | None = "one"
    seekable = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("toybucket://").strip("/")

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self.cat_file(path)), "type": "file", "ETag": self.tag}

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super().open(path, mode, **options)
        return ToyFile(type(self), file) if mode == "rb" else file


@pytest.fixture(autouse=True)
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ToySystem]:
    register_implementation("toybucket", ToySystem, clobber=True)
    for name, value in {"store": {}, "faults": [], "seeks": [], "tag": "one", "seekable": True}.items():
        monkeypatch.setattr(ToySystem, name, value)
    monkeypatch.setenv("TOVE_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TOVE_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    system = fsspec.filesystem("toybucket")
    put(system, CONTENT)
    yield system


def put(system: ToySystem, content: bytes, name: str = "/bucket/part-000.tar") -> None:
    with system.open(name, "wb") as file:
        file.write(content)


def test_a_file_comes_whole_and_once(bucket, capsys):
    file = fetch_shard(URL)
    assert file.name == "part-000.tar" and file.read_bytes() == CONTENT
    put(bucket, b"another")
    assert fetch_shard(URL).read_bytes() == CONTENT, "fetched shards are used for ever"
    told = capsys.readouterr().err
    assert told.startswith(f"fetching {URL} ({len(CONTENT):,} bytes) into ") and told.count("\n") == 1


@pytest.mark.parametrize("fault", ["end", TimeoutError("slow"), RuntimeError("of a package unknown to us")])
def test_what_was_cut_off_goes_on_where_it_was(bucket, fault, capsys):
    ToySystem.faults = [None, fault]
    assert fetch_shard(URL).read_bytes() == CONTENT
    assert ToySystem.seeks == [1 << 20] and "another try in 0 s" in capsys.readouterr().err


@pytest.mark.parametrize("tag", ["two", None])
def test_what_may_have_changed_meanwhile_begins_again(bucket, tag):
    ToySystem.faults = [None, PermissionError("gone")]
    with pytest.raises(DataError, match=r"part-000\.tar cannot be fetched \(gone\); check"):
        fetch_shard(URL)
    put(bucket, CONTENT[::-1])
    ToySystem.tag = tag
    assert fetch_shard(URL).read_bytes() == CONTENT[::-1] and ToySystem.seeks == []


def test_where_nothing_can_begin_in_the_middle_all_comes_again(bucket):
    ToySystem.faults, ToySystem.seekable = [None, "end"], False
    assert fetch_shard(URL).read_bytes() == CONTENT and ToySystem.seeks == []


def test_what_always_fails_is_given_up_with_its_last_words(bucket):
    ToySystem.faults = [OSError("on\nfire")] * 3
    with pytest.raises(DataError, match=r"part-000\.tar cannot be fetched after 3 tries \(on fire\)"):
        fetch_shard(URL)


def test_a_file_that_is_not_there_is_not_asked_for_again(bucket, capsys):
    with pytest.raises(DataError, match=r"part-001\.tar cannot be fetched \(there is no such file\)"):
        fetch_shard("toybucket://bucket/part-001.tar")
    assert "another try" not in capsys.readouterr().err


def test_a_pattern_of_a_bucket_is_read_as_local_shards_are(bucket, tmp_path):
    (tmp_path / "local").mkdir()
    for n in range(2):
        with tarfile.open(tmp_path / "local" / f"part-00{n}.tar", "w") as tar:
            for name, content in ((f"{n}.png", b"picture"), (f"{n}.txt", b"text")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        put(bucket, (tmp_path / "local" / f"part-00{n}.tar").read_bytes(), f"/bucket/part-00{n}.tar")
    found = read(DataConfig(reader="webdataset", path=Path("toybucket://bucket/part-{000..001}.tar")))
    wanted = read(DataConfig(reader="webdataset", path=tmp_path / "local"))
    assert found == wanted and [one.load() for one in found] == [one.load() for one in wanted]


def test_addresses_that_fsspec_knows_are_taken_and_what_is_on_this_machine_is_not():
    for url in ("s3://bucket/a.tar", "gs://bucket/{0..3}.tar", "hf://datasets/one/two/a.tar", URL):
        assert url_of(Path(url)) == url
    for url in ("file:///data/a.tar", "memory://a.tar", "pipe://cat a.tar"):
        with pytest.raises(DataError, match=r"was given as data\.path, but shards are read from http://"):
            url_of(Path(url))


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch):
    def absent(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(DataError, match=r"s3:// .* \(Install s3fs to access S3\); pip install 'tove-core\[s3\]'"):
        fetch_shard("s3://bucket/a.tar")
    assert set(buckets.EXTRAS.values()) == {"s3", "gcs"}
