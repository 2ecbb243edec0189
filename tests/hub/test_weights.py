from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tove_core.errors import ConfigError, WeightsError
from tove_core.hub.digest import sha256, verify
from tove_core.hub.lock import Lock
from tove_core.hub.weights import locate, read_safetensors
from tove_core.spec import ExpertSpec, Weights

MakeSpec = Callable[..., ExpertSpec]
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.ones(5, dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "given" / "model.safetensors"
    path.parent.mkdir()
    save_file(TENSORS, path)
    return path


def pinned(**fields: object) -> Weights:
    return Weights.model_validate({"repo": "o/n", "license": "MIT"} | fields)


def test_tensors_are_read_as_they_were_stored(file: Path) -> None:
    read = read_safetensors(file)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in TENSORS.items())


def test_an_empty_state_dict_can_be_read(tmp_path: Path) -> None:
    save_file({}, tmp_path / "none.safetensors", metadata={"format": "pt"})
    assert read_safetensors(tmp_path / "none.safetensors") == {}


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_files_are_refused(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"model\.safetensors has \d+ bytes"):
        read_safetensors(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04" + b"\0" * 60, "pickle under another name"),
        (b"\x80\x02}q\0." + b"\0" * 60, "pickle under another name"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"\x05" + b"\0" * 7 + b"hello", "no readable header"),
        (b"\x02" + b"\0" * 7 + b"[]", "no readable header"),
        (b"<!DOCTYPE html><html></html>", "truncated"),
        (b"\x0a" + b"\0" * 7 + b'{"a":null}', "no readable header"),
    ],
)
def test_other_contents_under_the_name_are_refused(file: Path, content: bytes, words: str) -> None:
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        read_safetensors(file)


def test_bytes_after_the_last_tensor_are_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(WeightsError, match="header promises"):
        read_safetensors(file)


def test_a_header_that_contradicts_its_data_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b"[2,3]", b"[9,3]"))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_safetensors(file)


def test_a_header_of_any_length_is_read(tmp_path: Path) -> None:
    lengths = set()
    for number in range(0, 300, 8):
        save_file({"a" * (1 + number): torch.ones(3)}, path := tmp_path / "long.safetensors")
        lengths.add(path.read_bytes()[0])
        assert list(read_safetensors(path)) == ["a" * (1 + number)]
    assert 0x80 in lengths  # a pickle's first byte


@pytest.mark.parametrize("suffix", [".bin", ".pth", ".pt", ".ckpt"])
def test_pickles_are_refused_unopened(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(WeightsError, match="can run code; convert it once"):
        read_safetensors(tmp_path / f"model{suffix}")


def test_missing_files_and_other_suffixes_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent\.safetensors cannot be read"):
        read_safetensors(tmp_path / "absent.safetensors")
    with pytest.raises(WeightsError, match=r"does not end in \.safetensors"):
        read_safetensors(tmp_path / "model.npz")


def test_the_digest_follows_a_file_that_changes(file: Path) -> None:
    first = sha256(file)
    assert first == hashlib.sha256(file.read_bytes()).hexdigest() == sha256(file)
    file.write_bytes(file.read_bytes() + b"x")
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest() != first
    with pytest.raises(WeightsError, match="absent"):
        sha256(file.with_name("absent"))
    with pytest.raises(WeightsError, match=r"someone says 0000000000000000\.\.\.; do this"):
        verify(file, "0" * 64, said_by="someone", advice="do this")


def test_nothing_is_located_for_random_weights_or_none_declared(make_spec: MakeSpec) -> None:
    assert locate(make_spec()) is None
    assert locate(make_spec(weights=pinned()), "random") is None


@pytest.mark.parametrize("name", ["tiny.safetensors", "model.safetensors", "{sha}.safetensors"])
def test_a_folder_may_name_the_file_in_three_ways(make_spec: MakeSpec, file: Path, name: str) -> None:
    digest = sha256(file)
    target = file.rename(file.with_name(name.format(sha=digest)))
    assert locate(make_spec(weights=pinned(sha256=digest)), file.parent) == target


def test_in_a_folder_the_hash_comes_before_the_name(make_spec: MakeSpec, file: Path) -> None:
    digest = sha256(file)
    by_hash = file.rename(file.with_name(f"{digest}.safetensors"))
    save_file({"other": torch.zeros(2)}, file.with_name("tiny.safetensors"))
    assert locate(make_spec(weights=pinned()), file.parent, expected_sha256=digest) == by_hash
    assert locate(make_spec(weights=pinned()), file.parent) == file.with_name("tiny.safetensors")


def test_a_folder_without_the_file_lists_the_names_looked_for(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'tiny'; put one of tiny\.safetensors, model\.safetensors there"):
        locate(make_spec(weights=pinned()), tmp_path)


def test_other_bytes_than_the_spec_or_checkpoint_says_are_refused(make_spec: MakeSpec, file: Path) -> None:
    digest = sha256(file)
    with pytest.raises(WeightsError, match="the spec of expert 'tiny' says 0000"):
        locate(make_spec(weights=pinned(sha256="0" * 64)), file.parent)
    with pytest.raises(WeightsError, match="the checkpoint says 1111"):
        locate(make_spec(weights=pinned(sha256=digest)), file.parent, expected_sha256="1" * 64)
    with pytest.raises(WeightsError, match=f"put the file of that hash there for expert 'tiny', as {'1' * 64}"):
        locate(make_spec(weights=pinned()), file.parent, expected_sha256="1" * 64)
    # A checkpoint's hash takes the place of the spec's.
    assert locate(make_spec(weights=pinned(sha256="0" * 64)), file.parent, expected_sha256=digest) == file


def test_a_stated_size_is_compared_where_no_hash_is_stated(make_spec: MakeSpec, file: Path) -> None:
    size = file.stat().st_size
    assert locate(make_spec(weights=pinned(size=size)), file.parent) == file
    with pytest.raises(WeightsError, match=f"has {size} bytes, the spec says {size + 1}"):
        locate(make_spec(weights=pinned(size=size + 1)), file.parent)


def test_a_checkpoint_with_weights_does_not_fit_random_or_undeclared_ones(make_spec: MakeSpec) -> None:
    with pytest.raises(WeightsError, match="random ones"):
        locate(make_spec(weights=pinned()), "random", expected_sha256="1" * 64)
    with pytest.raises(WeightsError, match="declares none"):
        locate(make_spec(), expected_sha256="1" * 64)


def test_weights_inside_a_package_are_found_and_verified(
    make_spec: MakeSpec, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "data").mkdir()
    (file.parent / "__init__.py").touch()
    shipped = file.rename(file.parent / "data" / "w.safetensors")
    monkeypatch.syspath_prepend(str(file.parent.parent))
    fields = {"repo": None, "package": "given", "file": "data/w.safetensors"}
    assert locate(make_spec(weights=pinned(**fields, sha256=sha256(shipped)))) == shipped
    with pytest.raises(WeightsError, match="the spec of expert 'tiny' says"):
        locate(make_spec(weights=pinned(**fields, sha256="0" * 64)))
    with pytest.raises(WeightsError, match="install package 'given' again"):
        locate(make_spec(weights=pinned(**fields, sha256="0" * 64)))
    with pytest.raises(WeightsError, match="plugin of expert 'tiny' ships other weights than it did, install mine==1"):
        locate(make_spec(weights=pinned(**fields)), expected_sha256="1" * 64, cure="install mine==1")
    with pytest.raises(WeightsError, match=r"'given' has no file data/absent\.safetensors"):
        locate(make_spec(weights=pinned(**fields | {"file": "data/absent.safetensors"})))
    with pytest.raises(WeightsError, match=r"without '\.\.'"):
        locate(make_spec(weights=pinned(**fields | {"file": "data/../../x.safetensors"})))
    with pytest.raises(WeightsError, match="'not_installed_anywhere' cannot be imported"):
        locate(make_spec(weights=pinned(**fields | {"package": "not_installed_anywhere"})))


def test_weights_on_the_hub_are_fetched_pinned_and_verified(
    make_spec: MakeSpec, file: Path, hub: Any, lock: Lock
) -> None:
    content = file.read_bytes()
    hub.commit("o/n", "a" * 40, {"model.safetensors": content})
    path = locate(make_spec(weights=pinned()), lock=lock)
    assert path is not None and path.read_bytes() == content
    assert lock.pin("o/n") == "a" * 40
    with pytest.raises(WeightsError, match="checkpoint says 1111"):
        locate(make_spec(weights=pinned(sha256=sha256(file))), expected_sha256="1" * 64, lock=lock)
    with pytest.raises(WeightsError, match="bytes, the spec says 7"):
        locate(make_spec(weights=pinned(size=7)), lock=lock)


def test_an_unknown_source_is_an_error(make_spec: MakeSpec) -> None:
    with pytest.raises(ConfigError, match=r"'latest'.*'pinned', 'random'"):
        locate(make_spec(weights=pinned()), "latest")  # type: ignore[arg-type]
