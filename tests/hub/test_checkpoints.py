"""Checkpoints named by a hub id: what is asked of the hub, what is fetched, and what is said where it fails."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tove_core.errors import CheckpointError, ConfigError, WeightsError
from tove_core.hub.checkpoints import find_checkpoint, is_remote, open_checkpoint
from tove_core.hub.lock import Lock

A, B = "a" * 40, "b" * 40
REPO = "owner/name"


def checkpoint(*, inside: str = "", **files: bytes) -> dict[str, bytes]:
    """Return the files of a repository with a checkpoint; `__` stands for a slash."""
    named = {name.replace("__", "/") + ".safetensors": content for name, content in files.items()}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in named.items()}
    return {inside + "tove.json": manifest(hashes)} | {inside + name: content for name, content in named.items()}


def manifest(files: Any) -> bytes:
    return json.dumps({"format": 1, "files": files}).encode()


def fetched(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_exactly_what_the_manifest_names_is_fetched(hub: Any, lock: Lock) -> None:
    files = checkpoint(model=b"trained", frozen__experts__one=b"expert", frozen__clip__deep__two=b"clip")
    hub.commit(REPO, A, files | {"README.md": b"# page", "other.safetensors": b"x", "run.py": b"import os"})
    assert fetched(open_checkpoint(REPO, lock=lock)) == files
    assert lock.pin(REPO) == A
    assert not any(request.endswith((".md", ".py", "other.safetensors")) for request in hub.requests)


def test_of_a_merged_model_its_checkpoint_is_fetched(hub: Any, lock: Lock) -> None:
    files = checkpoint(inside="checkpoint/", model=b"trained", frozen__clip__one=b"clip")
    hub.commit(REPO, A, files | {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"clip"})
    folder = open_checkpoint(REPO, lock=lock)
    assert fetched(folder) == files
    assert find_checkpoint(folder) == folder / "checkpoint"
    assert open_checkpoint(REPO, lock=lock) == folder


def test_a_cached_checkpoint_needs_no_request(hub: Any, lock: Lock) -> None:
    hub.commit(REPO, A, checkpoint(model=b"old"))
    folder = open_checkpoint(REPO, lock=lock)
    hub.commit(REPO, B, checkpoint(model=b"new"))
    hub.requests.clear()
    assert open_checkpoint(REPO, lock=lock) == folder
    assert hub.requests == []
    lock.forget(REPO)
    assert (open_checkpoint(REPO, lock=lock) / "model.safetensors").read_bytes() == b"new"


@pytest.mark.parametrize("revision", [None, "v1.0", A])
def test_offline_it_comes_from_the_cache(
    hub: Any, lock: Lock, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    hub.commit(REPO, A, checkpoint(model=b"old"))
    hub.branches[REPO, "v1.0"] = A
    folder = open_checkpoint(REPO, revision, lock)
    hub.requests.clear()
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    assert open_checkpoint(REPO, revision, lock) == folder
    assert hub.requests == []


def test_a_branch_or_tag_is_pinned_at_its_first_use_and_by_itself(hub: Any, lock: Lock) -> None:
    hub.commit(REPO, A, checkpoint(model=b"old"))
    hub.branches[REPO, "next/one"] = A
    hub.commit(REPO, B, checkpoint(model=b"new"))
    assert (open_checkpoint(REPO, "next/one", lock) / "model.safetensors").read_bytes() == b"old"
    assert lock.pins() == {"owner/name@next/one": A}
    hub.branches[REPO, "next/one"] = B
    assert (open_checkpoint(REPO, "next/one", lock) / "model.safetensors").read_bytes() == b"old"
    assert lock.forget("owner/name@next/one")
    assert (open_checkpoint(REPO, "next/one", lock) / "model.safetensors").read_bytes() == b"new"


def test_a_revision_may_stand_in_the_name(
    hub: Any, lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPO, A, checkpoint(model=b"old"))
    hub.branches[REPO, "next/one"] = A
    hub.commit(REPO, B, checkpoint(model=b"new"))
    assert is_remote(f"{REPO}@next/one")
    assert (open_checkpoint(f"{REPO}@next/one", lock=lock) / "model.safetensors").read_bytes() == b"old"
    assert (open_checkpoint(f"{REPO}@{A}", lock=lock) / "model.safetensors").read_bytes() == b"old"
    assert lock.pins() == {"owner/name@next/one": A}
    with pytest.raises(ConfigError, match=r"'owner/name@v1' names a revision, but revision 'v2' is given beside it; "):
        open_checkpoint(f"{REPO}@v1", "v2", lock)
    with pytest.raises(ConfigError, match=r"'owner/name@' names a revision, but nothing follows the @"):
        open_checkpoint(f"{REPO}@", lock=lock)
    monkeypatch.chdir(tmp_path)
    Path(REPO + "@v1").mkdir(parents=True)
    assert open_checkpoint(f"{REPO}@v1", lock=lock) == Path(f"{REPO}@v1")


def test_a_commit_pins_nothing(hub: Any, lock: Lock) -> None:
    hub.commit(REPO, A, checkpoint(model=b"old"))
    hub.commit(REPO, B, checkpoint(model=b"new"))
    assert (open_checkpoint(REPO, A, lock) / "model.safetensors").read_bytes() == b"old"
    assert lock.pins() == {}


def test_a_folder_comes_before_the_hub(hub: Any, lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit(REPO, A, checkpoint(model=b"old"))
    monkeypatch.chdir(tmp_path)
    Path(REPO).mkdir(parents=True)
    assert open_checkpoint(REPO, lock=lock) == Path(REPO)
    with pytest.raises(ConfigError, match=r"revision 'main' is one of a hub repository, and owner/name is a folder"):
        open_checkpoint(REPO, "main", lock)
    assert hub.requests == []


PATHS = ("./owner/name", "/owner/name", "~/name", "../name", "runs/mine/checkpoint", "name", "owner/name/", "", "o\\n")


@pytest.mark.parametrize("text", [*PATHS, Path(REPO)], ids=str)
def test_what_only_a_path_can_be_is_never_asked_of_the_hub(hub: Any, lock: Lock, text: Any) -> None:
    assert not is_remote(text)
    assert open_checkpoint(text, lock=lock) == Path(text)
    assert hub.requests == []


def said(lock: Lock, repo: str = REPO, revision: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(repo, revision, lock)
    text = str(caught.value)
    assert text.startswith(f"there is no folder '{repo}', and no such checkpoint on the hub: ") and "\n" not in text
    assert lock.pins() == {}
    return text


def test_what_the_hub_does_not_have_is_said_with_what_the_disk_does_not_have(hub: Any, lock: Lock) -> None:
    hub.commit(REPO, A, {"config.json": b"{}", "model.safetensors": b"other"})
    assert "owner/absent does not exist or is private" in said(lock, "owner/absent")
    assert "owner/name at aaaaaaaaaaaa has no tove.json" in said(lock)
    assert "owner/name has no revision a-long-branch-name" in said(lock, REPO, "a-long-branch-name")
    assert f"has no revision {B[:12]}" in said(lock, REPO, B)
    for odd in ("a..b", "/main", "-x", "a b", ""):
        assert f"has no revision {odd!r}" in said(lock, REPO, odd)


def test_offline_and_unreachable_are_told_apart(hub: Any, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "check the connection to the hub, or set TOVE_OFFLINE=1" in said(lock)
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    assert "owner/name is not in the local cache and downloads are switched off" in said(lock)
    assert "owner/name at v1 is not in the local cache" in said(lock, REPO, "v1")


def test_a_byte_changed_on_the_hub_is_refused(hub: Any, lock: Lock) -> None:
    hub.commit(REPO, A, checkpoint(model=b"trained", frozen__experts__one=b"expert"))
    hub.files[REPO][A]["frozen/experts/one.safetensors"] = b"expart"
    with pytest.raises(WeightsError, match=r"one\.safetensors has sha256 .*its spec or checkpoint says"):
        open_checkpoint(REPO, lock=lock)
    assert lock.pin(REPO) is None


def test_a_manifest_that_changes_at_a_commit_is_refused(hub: Any, lock: Lock, cache: Path) -> None:
    hub.commit(REPO, A, checkpoint(model=b"trained"))
    open_checkpoint(REPO, lock=lock)
    shutil.rmtree(cache)
    hub.files[REPO][A] = checkpoint(model=b"another")
    with pytest.raises(CheckpointError, match=r"tove\.json has sha256 .*weights\.lock\.json says"):
        open_checkpoint(REPO, lock=lock)


@pytest.mark.parametrize("name", ["../../outside.json", "/etc/x.json", "a/../../x.json", "a\\..\\x.json", ""])
def test_a_name_that_leads_out_of_the_checkpoint_is_refused(hub: Any, lock: Lock, name: str) -> None:
    hub.commit(REPO, A, {"tove.json": manifest({name: "0" * 64})})
    with pytest.raises(CheckpointError, match="no path inside it"):
        open_checkpoint(REPO, lock=lock)
    assert not any("outside" in request for request in hub.requests)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "frozen/decoder/modeling.py", "model.pt"])
def test_what_could_run_is_not_fetched_even_if_it_is_named(hub: Any, lock: Lock, name: str) -> None:
    content = b"pickle"
    hub.commit(REPO, A, {"tove.json": manifest({name: hashlib.sha256(content).hexdigest()}), name: content})
    with pytest.raises(WeightsError, match="may not be fetched"):
        open_checkpoint(REPO, lock=lock)
    assert not any(request.endswith(name) for request in hub.requests)


@pytest.mark.parametrize("content", [b"[]", b"no json", b'{"files": 3}', b'{"files": {"a.json": 3}}', b'{"format": 2}'])
def test_a_malformed_manifest_is_left_to_who_reads_it(hub: Any, lock: Lock, content: bytes) -> None:
    from tove_core.checkpoint import load, read_manifest

    hub.commit(REPO, A, {"tove.json": content})
    with pytest.raises(CheckpointError, match=r"tove\.json"):
        read_manifest(open_checkpoint(REPO, lock=lock))
    with pytest.raises(CheckpointError, match=r"tove\.json"):
        load(REPO)


def test_a_commit_pinned_meanwhile_by_another_process_holds(
    hub: Any, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit(REPO, A, checkpoint(model=b"old"))
    hub.commit(REPO, B, checkpoint(model=b"new"))
    respond = hub.answer

    def late(path: str) -> Any:
        if path.endswith(f"{B}/model.safetensors"):
            lock.record_pin(REPO, A)
        return respond(path)

    hub.answer = late
    assert (open_checkpoint(REPO, lock=lock) / "model.safetensors").read_bytes() == b"old"
