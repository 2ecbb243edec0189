from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tove_core.errors import WeightsError
from tove_core.hub.lock import Lock

A, B = "a" * 40, "b" * 40
ONE, TWO = "1" * 64, "2" * 64


def test_what_is_recorded_is_found_again_by_another_reader(lock: Lock) -> None:
    assert lock.pin("o/n") is None and lock.get("o/n", "w.safetensors") is None and lock.entries() == ()
    lock.record_pin("o/n", A)
    lock.record("o/n", "w.safetensors", A, ONE, 123)
    other = Lock(lock.path)
    entry = other.get("o/n", "w.safetensors")
    assert entry is not None and entry == other.get("o/n", "w.safetensors", A)
    assert (entry.sha256, entry.size, entry.revision) == (ONE, 123, A)
    assert entry.date.endswith("+00:00")
    assert other.pins() == {"o/n": A}
    assert other.get("o/n", "w.safetensors", B) is None


def test_the_first_pin_holds(lock: Lock) -> None:
    assert lock.record_pin("o/n", A) == A
    assert lock.record_pin("o/n", B) == A


def test_another_hash_for_the_same_file_and_commit_is_refused(lock: Lock) -> None:
    first = lock.record("o/n", "w.safetensors", A, ONE, 1)
    assert lock.record("o/n", "w.safetensors", A, ONE, 1) == first
    with pytest.raises(WeightsError, match=r"1111.*tove weights update o/n|2222.*1111"):
        lock.record("o/n", "w.safetensors", A, TWO, 1)
    lock.record("o/n", "w.safetensors", B, TWO, 1)
    assert [e.revision for e in lock.entries()] == [A, B]


def test_forgetting_removes_one_repository_only(lock: Lock) -> None:
    for repo in ("o/n", "o/other"):
        lock.record_pin(repo, A)
        lock.record(repo, "w.safetensors", A, ONE, 1)
    assert lock.forget("o/n") is True
    assert lock.forget("o/n") is False
    assert lock.pins() == {"o/other": A}
    assert [e.repo for e in lock.entries()] == ["o/other"]


def test_the_file_lies_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOVE_HOME", str(tmp_path / "mine"))
    Lock().record_pin("o/n", A)
    assert json.loads((tmp_path / "mine" / "weights.lock.json").read_text())["pins"] == {"o/n": A}
    assert sorted(p.suffix for p in (tmp_path / "mine").iterdir()) == [".guard", ".json"]


def test_concurrent_writers_lose_nothing(lock: Lock) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: Lock(lock.path).record(f"o/n{i}", "w.safetensors", A, ONE, i + 1), range(24)))
    assert len(lock.entries()) == 24


def test_a_writer_in_another_process_is_waited_for(lock: Lock) -> None:
    lock.record_pin("o/a", A)
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tove_core.hub.lock import Lock\n"
        "with Lock(Path(sys.argv[1]))._writing() as content:\n"
        "    print('holding', flush=True)\n"
        "    time.sleep(0.3)\n"
        "    content['pins']['o/b'] = 'b' * 40\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(lock.path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline().strip() == "holding"
        lock.record_pin("o/c", A)
    assert set(lock.pins()) == {"o/a", "o/b", "o/c"}


def test_a_failed_write_leaves_the_old_file(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    lock.record_pin("o/n", A)
    before = lock.path.read_bytes()

    def full(self: Path, target: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WeightsError, match="TOVE_HOME"):
        lock.record_pin("o/other", A)
    assert lock.path.read_bytes() == before
    assert len(list(lock.path.parent.iterdir())) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "pins": {}, "files": [{"repo": 1}]}', "\x00"]
)
def test_a_damaged_file_is_an_error_and_is_not_overwritten(lock: Lock, text: str) -> None:
    lock.path.parent.mkdir()
    lock.path.write_text(text)
    for use in (lambda: lock.pin("o/n"), lambda: lock.record_pin("o/n", A)):
        with pytest.raises(WeightsError, match="delete it"):
            use()
    assert lock.path.read_text() == text


def test_a_newer_format_is_an_error(lock: Lock) -> None:
    lock.path.parent.mkdir()
    lock.path.write_text('{"format": 2}')
    with pytest.raises(WeightsError, match="format 2"):
        lock.entries()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="TOVE_HOME"):
        Lock(tmp_path / "file" / "weights.lock.json").record_pin("o/n", A)
