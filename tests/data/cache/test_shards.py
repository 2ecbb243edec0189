from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tove_core.data.cache.shards import read_shard, write_shard
from tove_core.errors import DataError


def tensors(rows: int = 5):
    draw = torch.Generator().manual_seed(rows)
    keys = torch.randint(0, 256, (rows, 32), generator=draw, dtype=torch.uint8)
    return {"keys": keys, "f": torch.randn(rows, 3, 7, generator=draw), "scale": torch.rand(rows, 3, generator=draw)}


@pytest.fixture
def shard(tmp_path: Path):
    return write_shard(tmp_path, tensors(), "feature 'clip'")


def test_a_shard_is_a_safetensors_file_named_after_its_sha256(tmp_path, shard):
    assert [path.name for path in tmp_path.iterdir()] == [shard.path.name]
    assert shard.path.stem == hashlib.sha256(shard.path.read_bytes()).hexdigest()
    theirs = load_file(shard.path)
    for name, tensor in tensors().items():
        assert torch.equal(theirs[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_mapped_tensors_are_what_was_written_bit_for_bit(tmp_path, dtype):
    given = {name: tensor for name, tensor in tensors(3).items() if name == "keys"} | {
        "f": torch.randn(3, 5, 7).to(dtype)
    }
    shard = read_shard(write_shard(tmp_path, given, "x").path)
    assert len(shard) == 3
    mapped = shard.tensors()
    assert set(mapped) == {"f"} and mapped["f"].dtype == dtype
    assert torch.equal(mapped["f"].view(torch.uint8), given["f"].view(torch.uint8))
    assert (shard.keys() == given["keys"].numpy()).all()


def test_writing_the_same_twice_leaves_one_file(tmp_path, shard):
    assert write_shard(tmp_path, tensors(), "x").path == shard.path
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("cut", [1, 17, 400, 720])
def test_a_truncated_shard_is_seen_by_its_length_alone(shard, cut):
    shard.path.write_bytes(shard.path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"is damaged \(.*tove cache verify --remove") as caught:
        read_shard(shard.path)
    assert str(caught.value).count("is damaged") == 1


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}", b"\x02" + b"\0" * 7 + b"[]"]
)
def test_what_is_no_shard_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged") as caught:
        read_shard(path)
    assert str(caught.value).count("is damaged") == 1


def test_a_file_of_another_format_is_refused(tmp_path):
    save_file(tensors(), tmp_path / "x.safetensors", {"format": "tove-cache-0"})
    with pytest.raises(DataError, match="format 'tove-cache-0'"):
        read_shard(tmp_path / "x.safetensors")


def test_every_flipped_bit_is_seen_and_never_crashes_the_reader(shard):
    content = bytearray(shard.path.read_bytes())
    assert shard.is_intact()
    for at in range(0, len(content), 3):
        content[at] ^= 1 << at % 8
        shard.path.write_bytes(content)
        assert not shard.is_intact()
        try:
            read_shard(shard.path)  # the cheap look may miss it, or say so
        except DataError as error:
            assert "damaged" in str(error) or "format" in str(error)
        content[at] ^= 1 << at % 8


def test_a_shard_that_changes_after_it_was_opened_is_refused_and_not_read_past_its_end(shard):
    shard.path.write_bytes(shard.path.read_bytes()[:-4])
    with pytest.raises(DataError, match="bytes before"):
        shard.tensors()
    shard.path.unlink()
    with pytest.raises(DataError, match="is damaged"):
        shard.tensors()
    assert not shard.is_intact()


def test_thousands_of_mapped_shards_need_no_file_descriptors(tmp_path):
    resource = pytest.importorskip("resource")
    shards = [write_shard(tmp_path, tensors(rows), "x") for rows in range(1, 41)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else pytest.skip("no /proc")
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, before[1]))
    try:
        kept = [shard.tensors() for shard in shards]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert sum(len(one["f"]) for one in kept) == sum(range(1, 41))


FULL = """
import resource, sys
from pathlib import Path
import torch
from tove_core.data.cache.shards import write_shard
from tove_core.errors import DataError
keys = torch.zeros(64, 32, dtype=torch.uint8)
write_shard(Path(sys.argv[1]), {"keys": keys, "f": torch.zeros(64, 1, 4)}, "x")
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    write_shard(Path(sys.argv[1]), {"keys": keys, "f": torch.ones(64, 16, 64)}, "feature 'clip'")
except DataError as error:
    print(error)
"""


def test_a_disk_that_fills_up_leaves_whole_shards_alone(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("a shard of feature 'clip' cannot be written"), done
    assert "run the same command again" in done.stdout
    (left,) = tmp_path.iterdir()
    assert read_shard(left).is_intact()
