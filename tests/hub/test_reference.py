from __future__ import annotations

from pathlib import Path

import pytest

from tove_core.errors import ConfigError
from tove_core.hub.reference import LEGACY, is_hub_id, package_path, resolve_folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site" / "shipped" / "models"
    (folder / "small").mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "small" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder.parent


def test_an_existing_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert resolve_folder(str(tmp_path)) == tmp_path
    assert resolve_folder("owner/name") is None
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("owner/name") == Path("owner/name")


def test_a_folder_inside_a_package_is_found(package: Path) -> None:
    assert resolve_folder("package:shipped/models/small") == package / "models" / "small"
    assert resolve_folder("package:shipped") == package
    assert package_path("shipped", "models/small/config.json").read_text() == "{}"


def test_hub_ids_are_left_to_the_hub() -> None:
    assert resolve_folder("laion/CLIP-ViT-B-32_x.2") is None
    assert is_hub_id("timm/samvit_base_patch16.sa1b")
    assert not any(map(is_hub_id, ("gpt2", "a/b/c", "/a/b", "./a", "../a", "a/..", "a b/c", "")))


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("gpt2", "hub ids are owner/name, write 'openai-community/gpt2'"),
        ("my-model", "or 'owner/name', such as 'openai-community/gpt2'"),
        ("", "owner/name"),
        ("./missing/folder", "neither a folder"),
        ("/missing/folder", "neither a folder"),
        ("a/b/c", "neither a folder"),
        ("package:not_installed_anywhere/models", "'not_installed_anywhere' cannot be imported"),
        ("package:shipped/absent", "not a folder"),
        ("package:shipped/models/small/config.json", "not a folder"),
        ("package:shipped/../..", "without '..'"),
        ("package:/etc", "without '..'"),
        ("package:", "without '..'"),
    ],
)
def test_anything_else_is_an_error_that_says_what_to_give(package: Path, reference: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_folder(reference)


def test_what_old_names_are_answered_with_can_be_given() -> None:
    assert all(is_hub_id(name) and name.endswith(f"/{old}") for old, name in LEGACY.items())


def test_a_file_where_a_folder_is_wanted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(ConfigError, match="is a file"):
        resolve_folder(str(tmp_path / "config.json"))
