from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tove_core.errors import WeightsError
from tove_core.hub.download import fetch, fetch_file, on_disk, pinned_revision, snapshot
from tove_core.hub.lock import Lock

A, B = "a" * 40, "b" * 40
REPO, FILE = "owner/name", "model.safetensors"
OLD, NEW = b"old weights" * 11, b"new weights" * 7


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def repo(hub: Any) -> Any:
    hub.commit(REPO, A, {FILE: OLD, "config.json": b"{}"})
    return hub


def tamper(path: Path) -> None:
    """Change a byte of the cached file, as a failing disk or another user might."""
    blob = path.resolve()
    content = bytearray(blob.read_bytes())
    content[3] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(bytes(content))


def test_the_first_download_pins_commit_and_hash(repo: Any, lock: Lock) -> None:
    path = fetch(REPO, FILE, lock=lock)
    assert path.read_bytes() == OLD
    assert lock.pin(REPO) == A
    entry = lock.get(REPO, FILE)
    assert entry is not None
    assert (entry.sha256, entry.size) == (sha(OLD), len(OLD))


def test_the_pinned_commit_beats_a_moved_main(repo: Any, lock: Lock) -> None:
    fetch(REPO, FILE, lock=lock)
    repo.commit(REPO, B, {FILE: NEW, "config.json": b'{"new": 1}'})
    assert fetch(REPO, FILE, lock=lock).read_bytes() == OLD
    assert fetch_file(REPO, "config.json", lock=lock).read_bytes() == b"{}"
    assert pinned_revision(REPO, lock) == A
    assert lock.forget(REPO)
    assert fetch(REPO, FILE, lock=lock).read_bytes() == NEW
    assert lock.pin(REPO) == B


def test_a_pinned_file_in_the_cache_needs_no_request(repo: Any, lock: Lock) -> None:
    fetch(REPO, FILE, lock=lock)
    repo.requests.clear()
    fetch(REPO, FILE, lock=lock)
    assert repo.requests == []


def test_a_stated_revision_is_used_and_pins_nothing_else(repo: Any, lock: Lock) -> None:
    repo.commit(REPO, B, {FILE: NEW})
    assert fetch(REPO, FILE, A, lock=lock).read_bytes() == OLD
    assert lock.pin(REPO) is None
    assert fetch(REPO, FILE, lock=lock).read_bytes() == NEW
    assert {(e.revision, e.sha256) for e in lock.entries()} == {(A, sha(OLD)), (B, sha(NEW))}


def test_every_file_is_recorded_also_where_all_is_stated(repo: Any, lock: Lock) -> None:
    fetch(REPO, FILE, A, sha(OLD), lock)
    assert [(e.file, e.revision, e.sha256, e.size) for e in lock.entries()] == [(FILE, A, sha(OLD), len(OLD))]
    assert lock.pins() == {}


def unwritable(lock: Lock) -> None:
    """Make the lock file one that can be read and not written, also by root: a folder is where its guard would be."""
    guard = lock.path.with_name(lock.path.name + ".guard")
    guard.unlink(missing_ok=True)
    guard.mkdir(parents=True)


def test_a_read_only_lock_that_holds_all_is_enough(repo: Any, lock: Lock) -> None:
    fetch(REPO, FILE, lock=lock)
    snapshot(REPO, lock=lock)
    unwritable(lock)
    repo.commit(REPO, B, {FILE: NEW})
    assert fetch(REPO, FILE, lock=lock).read_bytes() == OLD
    assert fetch(REPO, FILE, None, sha(OLD), lock).read_bytes() == OLD
    assert (snapshot(REPO, lock=lock) / FILE).read_bytes() == OLD and pinned_revision(REPO, lock) == A
    with pytest.raises(WeightsError, match="cannot be written"):
        fetch(REPO, FILE, B, lock=lock)


def test_a_read_only_lock_does_not_stop_what_is_stated_but_that_it_was_not_recorded_is_told(
    repo: Any, lock: Lock
) -> None:
    unwritable(lock)
    with pytest.warns(UserWarning, match=r"not recorded for 'tove weights verify'.*cannot be written"):
        assert fetch(REPO, FILE, A, sha(OLD), lock).read_bytes() == OLD


def test_tampered_bytes_are_refused_by_the_lock(repo: Any, lock: Lock) -> None:
    path = fetch(REPO, FILE, lock=lock)
    tamper(path)
    with pytest.raises(WeightsError, match=rf"{sha(OLD)[:16]}.*tove weights update {REPO}"):
        fetch(REPO, FILE, lock=lock)
    # What the message says to do really helps.
    path.resolve().unlink()
    assert fetch(REPO, FILE, lock=lock).read_bytes() == OLD


def test_a_server_that_changes_a_commit_is_refused(repo: Any, lock: Lock) -> None:
    fetch(REPO, FILE, lock=lock).resolve().unlink()
    repo.files[REPO][A][FILE] = NEW
    with pytest.raises(WeightsError, match=f"sha256 {sha(NEW)[:16]}"):
        fetch(REPO, FILE, lock=lock)


def test_a_stated_hash_is_compared_and_a_mismatch_pins_nothing(repo: Any, lock: Lock) -> None:
    assert fetch(REPO, FILE, None, sha(OLD), lock).read_bytes() == OLD
    lock.forget(REPO)
    with pytest.raises(WeightsError, match=f"its spec or checkpoint says {sha(NEW)[:16]}"):
        fetch(REPO, FILE, None, sha(NEW), lock)
    assert lock.pin(REPO) is None and lock.entries() == ()


def test_a_stated_hash_comes_before_the_lock(repo: Any, lock: Lock) -> None:
    lock.record(REPO, FILE, A, sha(NEW), 1)
    with pytest.raises(WeightsError, match=r"weights\.lock\.json says"):
        fetch(REPO, FILE, A, None, lock)
    assert fetch(REPO, FILE, A, sha(OLD), lock).read_bytes() == OLD


@pytest.mark.parametrize("variable", ["TOVE_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_uses_the_cache_at_the_pinned_commit(
    repo: Any, lock: Lock, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    fetch(REPO, FILE, lock=lock)
    repo.commit(REPO, B, {FILE: NEW})
    repo.requests.clear()
    monkeypatch.setenv(variable, "1")
    assert fetch(REPO, FILE, lock=lock).read_bytes() == OLD
    assert pinned_revision(REPO, lock) == A
    with pytest.raises(
        WeightsError, match=r"config\.json at aaaaaaaaaaaa is not in the local cache.*unset TOVE_OFFLINE"
    ):
        fetch_file(REPO, "config.json", lock=lock)
    assert repo.requests == []


def test_offline_without_a_pin_says_what_to_do(repo: Any, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    for ask in (lambda: fetch(REPO, FILE, lock=lock), lambda: pinned_revision(REPO, lock)):
        with pytest.raises(WeightsError, match="load it once"):
            ask()
    assert repo.requests == [] and not lock.path.exists()


def test_offline_pins_what_another_program_left_in_the_cache(
    repo: Any, lock: Lock, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, FILE, cache_dir=cache, endpoint=os.environ["HF_ENDPOINT"])
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    assert fetch(REPO, FILE, lock=lock).read_bytes() == OLD
    assert lock.pin(REPO) == A


def test_an_unreachable_hub_is_an_error_that_names_the_offline_switch(
    cache: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"connection.*TOVE_OFFLINE=1") as caught:
        fetch(REPO, FILE, lock=lock)
    assert caught.value.__cause__ is not None


def test_what_does_not_exist_is_named(repo: Any, lock: Lock) -> None:
    with pytest.raises(WeightsError, match="owner/absent does not exist or is private"):
        fetch("owner/absent", FILE, lock=lock)
    with pytest.raises(WeightsError, match=r"other\.safetensors does not exist at aaaaaaaaaaaa"):
        fetch(REPO, "other.safetensors", lock=lock)
    with pytest.raises(WeightsError, match="has no revision cccccccccccc"):
        fetch(REPO, FILE, "c" * 40, lock=lock)
    assert lock.pin(REPO) is None


def test_a_gated_repository_says_where_to_accept_its_licence(repo: Any, lock: Lock) -> None:
    repo.answer = lambda path: (403, {"X-Error-Code": "GatedRepo"}, b"")
    with pytest.raises(
        WeightsError, match=rf"accept its licence on the model's page http.*/{REPO}, then .*hf auth login"
    ):
        fetch(REPO, FILE, A, lock=lock)
    assert lock.entries() == ()


def test_what_lies_on_disk_is_told_without_a_request(repo: Any, lock: Lock) -> None:
    assert on_disk(REPO, FILE, lock=lock) is None
    path = fetch(REPO, FILE, lock=lock)
    repo.requests.clear()
    assert on_disk(REPO, FILE, lock=lock) == path and on_disk(REPO, FILE, A) == path
    assert on_disk(REPO, FILE, B) is None and on_disk(REPO, "config.json", lock=lock) is None
    assert on_disk("other/name", FILE, lock=lock) is None and repo.requests == []


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "config.json", "safetensors"])
def test_weights_are_safetensors_only(repo: Any, lock: Lock, file: str) -> None:
    with pytest.raises(WeightsError, match="not a safetensors file"):
        fetch(REPO, file, lock=lock)
    assert repo.requests == []


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "modeling_x.py", "a.pkl", "noext"])
def test_nothing_that_could_run_is_fetched(repo: Any, lock: Lock, file: str) -> None:
    with pytest.raises(WeightsError, match="may not be fetched"):
        fetch_file(REPO, file, lock=lock)
    assert repo.requests == []


def test_references_that_are_no_hub_id_or_commit_are_refused(repo: Any, lock: Lock) -> None:
    with pytest.raises(WeightsError, match="owner/name"):
        fetch("gpt2", FILE, lock=lock)
    with pytest.raises(WeightsError, match="40 hex digits"):
        fetch(REPO, FILE, "main", lock=lock)


def test_a_snapshot_holds_only_data_files_all_pinned(hub: Any, lock: Lock) -> None:
    files = {"config.json": b"{}", "merges.txt": b"a b", "spm.model": b"m", FILE: OLD, "sub/deep/other.json": b"[]"}
    hub.commit(REPO, A, files | {"pytorch_model.bin": b"pickle", "modeling.py": b"import os", "onnx/m.json": b"[]"})
    folder = snapshot(REPO, lock=lock)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "merges.txt", FILE, "spm.model"]
    assert lock.pin(REPO) == A and len(lock.entries()) == 4
    assert snapshot(REPO, ("sub/*",), lock=lock) == folder
    assert (folder / "sub" / "deep" / "other.json").read_bytes() == b"[]"
    assert not any(request.endswith((".bin", ".py")) for request in hub.requests)


def test_a_snapshot_stays_at_its_commit_and_works_offline(
    repo: Any, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = snapshot(REPO, lock=lock)
    repo.commit(REPO, B, {FILE: NEW, "config.json": b"[]"})
    assert snapshot(REPO, lock=lock) == folder
    monkeypatch.setenv("TOVE_OFFLINE", "1")
    assert snapshot(REPO, lock=lock) == folder
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json at aaaaaaaaaaaa is not in the local cache"):
        snapshot(REPO, lock=lock)


def test_a_tampered_snapshot_is_refused(repo: Any, lock: Lock) -> None:
    tamper(snapshot(REPO, lock=lock) / FILE)
    with pytest.raises(WeightsError, match="tove weights update"):
        snapshot(REPO, lock=lock)


def test_a_repository_with_pickled_weights_only_is_refused(hub: Any, lock: Lock) -> None:
    hub.commit(REPO, A, {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin only"):
        snapshot(REPO, lock=lock)
    assert (snapshot(REPO, ("*.json",), lock=lock) / "config.json").is_file()
    with pytest.raises(WeightsError, match=r"no file that matches \*\.model"):
        snapshot(REPO, ("*.model",), lock=lock)


def test_a_commit_pinned_meanwhile_by_another_process_holds(
    repo: Any, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit(REPO, B, {FILE: NEW})
    original, calls = Lock.record_pin, []

    def late(self: Lock, name: str, revision: str) -> str:
        if not calls:
            calls.append(original(self, name, A))
        return original(self, name, revision)

    monkeypatch.setattr(Lock, "record_pin", late)
    assert fetch(REPO, FILE, lock=lock).read_bytes() == OLD
