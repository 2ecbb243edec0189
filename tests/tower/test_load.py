from __future__ import annotations

import hashlib
import sys

import pytest
import torch

from tove_core.config import ClipConfig
from tove_core.errors import ConfigError, WeightsError
from tove_core.tower import load_tower, source
from tove_core.tower.open_clip_source import OPENAI


def test_the_hash_of_the_weights_is_kept(tower, tmp_path):
    data = (tmp_path / "clip" / "open_clip_model.safetensors").read_bytes()
    assert tower.weights_sha256 == hashlib.sha256(data).hexdigest()


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone(open_clip_folder):
    config = ClipConfig(name=f"local-dir:{open_clip_folder()[0]}")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (load_tower(config, weights="random", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    pixels = torch.randn(1, 3, 40, 40)
    assert torch.equal(one(pixels).patches, again(pixels).patches)
    assert not torch.allclose(one(pixels).patches, other(pixels).patches)
    assert one.weights_sha256 is None


def test_random_weights_need_no_file(open_clip_folder):
    folder, _ = open_clip_folder()
    (folder / "open_clip_model.safetensors").unlink()
    assert load_tower(ClipConfig(name=f"local-dir:{folder}"), weights="random").width == 48


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-61/openai", "did you mean 'ViT-B-16'"),
        ("vit-b-16/openai", "did you mean 'ViT-B-16'"),
        ("ViT-B-16/opnai", "did you mean 'openai'"),
        ("ViT-B-16", "has no tag ''"),
        ("nonsense:ViT-B-16", "no model 'nonsense:ViT-B-16'"),
        ("local-dir:", "does not exist"),
        ("local-dir:/nowhere/at/all", "does not exist"),
        ("hf:not-a-folder", "neither a hub id"),
        ("hf:/nowhere/at/all", "neither a hub id"),
        ("hf-hub:a/b/c", "neither a hub id"),
        ("package:tove_nowhere/clip", "not installed"),
        ("package:tove_core/nowhere", "no folder 'nowhere'"),
        ("package:tove_core/../tove_core/demo/assets/clip", "without '..'"),
        ("package:tove_core//etc", "without '..'"),
    ],
)
def test_a_bad_name_is_an_error_that_says_what_is_wrong(name, message):
    with pytest.raises(ConfigError, match=message):
        load_tower(ClipConfig(name=name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "openai/clip-vit-base-patch16",
            r"write 'hf:openai/clip-vit-base-patch16' .* or open_clip's 'ViT-B-16/openai'",
        ),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", r"'hf-hub:laion/CLIP.*or open_clip's 'ViT-H-14/laion2b_s32b_b79k'"),
        ("someone/their-clip", r"write 'hf:someone/their-clip' .*, or 'hf-hub:someone/their-clip' if"),
        ("/nowhere/at/all", "no folder; give 'local-dir:FOLDER' or 'hf:FOLDER'"),
        ("./nowhere", "no folder; give 'local-dir:FOLDER' or 'hf:FOLDER'"),
    ],
)
def test_a_name_without_its_scheme_is_answered_with_what_to_write(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_tower(ClipConfig(name=name))
    assert "\n" not in str(caught.value)


def test_what_openais_hub_ids_are_answered_with_is_the_same_model_of_open_clip():
    import open_clip

    for repo, name in OPENAI.items():
        model, _, tag = name.partition("/")
        vision = open_clip.get_model_config(model)["vision_cfg"]
        assert tag in open_clip.list_pretrained_tags_by_model(model)
        assert f"patch{vision['patch_size']}" in repo.split("-") and repo.endswith("-336") == (
            vision["image_size"] == 336
        )


def test_a_folder_without_its_scheme_is_answered_by_what_lies_in_it(tmp_path, monkeypatch):
    def said(name):
        with pytest.raises(ConfigError) as caught:
            load_tower(ClipConfig(name=name))
        return str(caught.value)

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my" / "clip"
    folder.mkdir(parents=True)
    assert "neither open_clip_config.json nor config.json" in said(str(folder))
    (folder / "config.json").touch()
    assert said(str(folder)).endswith(f"write 'hf:{folder}'")
    (folder / "open_clip_config.json").touch()
    assert said("my/clip").endswith("write 'local-dir:my/clip' or 'hf:my/clip'")
    (folder / "config.json").unlink()
    assert said("./my/clip").endswith("write 'local-dir:./my/clip'")
    assert "is a file where a folder is wanted" in said("my/clip/open_clip_config.json")


def test_a_tag_without_safetensors_is_refused_before_any_download(monkeypatch):
    monkeypatch.setattr(source, "fetch", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        load_tower(ClipConfig(name="ViTamin-S/datacomp1b"))


def test_a_hub_name_is_read_through_the_downloader(monkeypatch, open_clip_folder):
    folder, _ = open_clip_folder(preprocess={"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"})
    asked = []

    def fetch(repo, file, revision):
        asked.append((repo, file))
        return folder / file

    monkeypatch.setattr(source, "fetch", fetch)
    tower = load_tower(ClipConfig(name="hf-hub:someone/clip"))
    assert tower.input.mean == (0.1, 0.2, 0.3) and tower.resize_mode == "squash"
    files = ("open_clip_config.json", "open_clip_model.safetensors")
    assert asked == [("someone/clip", file) for file in files]


def test_a_tag_that_cannot_be_downloaded_says_what_to_do(monkeypatch):
    def fetch(repo, file, revision):
        raise WeightsError(f"{repo}/{file} is not there")

    monkeypatch.setattr(source, "fetch", fetch)
    with pytest.raises(WeightsError, match="local-dir:FOLDER") as caught:
        load_tower(ClipConfig(name="ViT-B-32/openai"))
    assert "open_clip_model.safetensors" in str(caught.value.__cause__)


def test_a_package_brings_its_folder_without_being_imported(monkeypatch, tmp_path, open_clip_folder):
    folder, _ = open_clip_folder()
    package = tmp_path / "tove_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    folder.rename(package / "clip")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_tower(ClipConfig(name="package:tove_test_package/clip")).grid == (5, 5)
    assert "tove_test_package" not in sys.modules


def test_several_files_have_one_hash_that_depends_on_each(tmp_path):
    for name, text in (("a", "1"), ("b", "2")):
        (tmp_path / name).write_text(text)
    both = source.sha256_of([tmp_path / "a", tmp_path / "b"])
    assert both == source.sha256_of([tmp_path / "b", tmp_path / "a"])
    (tmp_path / "b").write_text("3")
    assert both != source.sha256_of([tmp_path / "a", tmp_path / "b"])
