from __future__ import annotations

import pytest

from tove_core.errors import CheckpointError
from tove_core.folders import new_folder


def test_a_folder_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "deep" / "out"
    with new_folder(target) as inside:
        (inside / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [p.name for p in target.parent.iterdir()] == ["out"]


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), new_folder(tmp_path / "out") as inside:
        (inside / "a").write_text("1")
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_overwriting_is_asked_for(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(CheckpointError, match=r"exists already; give another folder$"), new_folder(target):
        pass
    named = "exists already; give another folder or overwrite=True$"
    with pytest.raises(CheckpointError, match=named), new_folder(target, overwrite=False):
        pass
    with pytest.raises(RuntimeError), new_folder(target, overwrite=True):
        raise RuntimeError
    assert (target / "old").exists()
    with new_folder(target, overwrite=True) as inside:
        (inside / "new").write_text("2")
    assert [p.name for p in target.iterdir()] == ["new"] and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as inside:
        (inside / "a").touch()
    assert (tmp_path / "out" / "a").exists()
