from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core import plugins
from tove_core.config import DataConfig, TrainingConfig
from tove_core.data.cache.folder import FeatureCache
from tove_core.data.features import FeatureTable
from tove_core.data.readers import read
from tove_core.data.sample import distinct_images
from tove_core.errors import DataError, UnknownExpertError
from tove_core.evaluation.loss import mean_loss
from tove_core.training import fit
from tove_core.training.cached import build_cache, cache_builder, estimate, feature_fingerprints, open_cache
from tove_core.training.examples import Examples
from tove_core.training.run import make_examples, prepare

BATCH = 4


def calibrated(toy: Any, *given: Any, **options: Any) -> Any:
    model = toy.build(*given, **options)
    prepare(model, toy.samples())
    return model


def filled(toy: Any, model: Any, folder: Path, **given: Any) -> Any:
    builder = cache_builder(model, toy.samples(), folder, **given)
    estimate(builder)
    return build_cache(model, builder, batch_size=BATCH)


def trained(toy: Any, model: Any, examples: Any) -> dict[str, torch.Tensor]:
    config = {"steps": 5, "batch_size": 5, "learning_rate": 1e-2, "warmup": 1, "log_every": 1}
    fit(model, examples, TrainingConfig.model_validate(config), seed=3, quiet=True)
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def live_table(toy: Any, model: Any) -> FeatureTable:
    """The features themselves, in main memory."""
    images, _ = distinct_images(toy.samples())
    return FeatureTable.build(model.encode, images, {}, batch_size=BATCH, dtype="float32")


def test_losses_and_trained_weights_from_a_float32_cache_equal_live_ones_to_the_last_bit(toy: Any, tmp_path: Path):
    straight, again = calibrated(toy, decoder={"train": "all"}), calibrated(toy, decoder={"train": "all"})
    report = filled(toy, again, tmp_path / "cache", default="float32")
    assert report.computed == dict.fromkeys(["clip", *toy.experts], 12)
    in_memory = Examples(straight, toy.samples(), live_table(toy, straight))
    on_disk = make_examples(again, toy.samples(), cache=tmp_path / "cache", quiet=True)
    live = Examples(straight, toy.samples())
    wanted = mean_loss(straight, live, batch_size=BATCH)  # the batches the cache was made of
    assert mean_loss(again, on_disk, batch_size=BATCH) == wanted
    expected = trained(toy, straight, in_memory)
    assert [name for name, p in trained(toy, again, on_disk).items() if not torch.equal(p, expected[name])] == []


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("float8", 5e-2)])
def test_losses_from_a_smaller_cache_are_close_to_live_ones(toy: Any, tmp_path: Path, dtype: Any, tolerance: float):
    model = calibrated(toy)
    filled(toy, model, tmp_path, default=dtype)
    cached = Examples(model, toy.samples(), open_cache(model, toy.samples(), tmp_path))
    assert mean_loss(model, cached) == pytest.approx(mean_loss(model, Examples(model, toy.samples())), rel=tolerance)


def test_only_the_features_that_are_asked_for_are_run(toy: Any, monkeypatch: pytest.MonkeyPatch):
    model = calibrated(toy)
    everything = model.encode(toy.pictures(3))
    monkeypatch.setattr(type(model.tower), "forward", None)
    some = model.encode(toy.pictures(3), only=["toy-wide"])
    assert list(some) == ["toy-wide"] and torch.equal(some["toy-wide"], everything["toy-wide"])
    with pytest.raises(UnknownExpertError, match=r"\['ocr'\] cannot be run; this model has clip, toy-fine"):
        model.encode(toy.pictures(1), only=["ocr"])


def test_a_hub_that_grows_computes_the_new_expert_alone(toy: Any, tmp_path: Path):
    small, large = calibrated(toy, ["toy-fine"]), calibrated(toy, ["toy-fine", "toy-wide"])
    filled(toy, small, tmp_path)
    with pytest.raises(DataError, match="'toy-wide' is not in"):
        open_cache(large, toy.samples(), tmp_path)
    assert filled(toy, large, tmp_path).computed == {"clip": 0, "toy-fine": 0, "toy-wide": 12}
    for model in (small, large):
        assert set(open_cache(model, toy.samples(), tmp_path).features) == {"clip", *model.active_experts}


def test_each_feature_can_have_a_dtype_of_its_own(toy: Any, tmp_path: Path):
    model = calibrated(toy)
    filled(toy, model, tmp_path, dtypes={"toy-wide": "float32", "clip": "float8"})
    assert {store.name: store.dtype for store in FeatureCache(tmp_path).stores()} == {
        "clip": "float8",
        "toy-fine": "float16",
        "toy-wide": "float32",
        "toy-whole": "float16",
    }
    with pytest.raises(DataError, match=r"\['ocr'\]; this model has clip, toy-fine"):
        cache_builder(model, toy.samples(), tmp_path, dtypes={"ocr": "float16"})


def without_versions(model: Any) -> dict[str, Any]:
    return {one.name: one.as_json() | {"versions": {}} for one in feature_fingerprints(model)}


def test_fingerprints_are_the_same_for_the_same_model_and_for_files_that_moved(toy: Any, tmp_path: Path):
    import shutil

    shutil.copytree(toy.clip.removeprefix("local-dir:"), tmp_path / "moved")
    moved = calibrated(toy, clip=f"local-dir:{tmp_path / 'moved'}")
    assert without_versions(calibrated(toy)) == without_versions(moved)
    reordered = calibrated(toy, list(reversed(toy.experts)), decoder=None)
    assert without_versions(reordered) == without_versions(moved)


def test_what_changes_one_feature_changes_no_other(toy: Any):
    before = calibrated(toy)
    with torch.no_grad():
        other = calibrated(toy)
        other.experts["toy-wide"].module.conv.bias += 1
    changed = {name for name, one in without_versions(other).items() if one != without_versions(before)[name]}
    assert changed == {"toy-wide"}
    layer = calibrated(toy, clip={"name": toy.clip, "layer": -1})
    assert {n for n, one in without_versions(layer).items() if one != without_versions(before)[n]} == {"clip"}
    activation = calibrated(toy, clip=toy.quick_clip)
    assert {n for n, one in without_versions(activation).items() if one != without_versions(before)[n]} == {"clip"}
    cropped = calibrated(toy, view="crop")
    assert {n for n, one in without_versions(cropped).items() if one != without_versions(before)[n]} == {
        "clip",
        *toy.experts,
    }


def test_random_weights_of_another_seed_are_other_features(toy: Any, tmp_path: Path):
    filled(toy, calibrated(toy, ["toy-wide"], weights="random", seed=1), tmp_path)
    other = calibrated(toy, ["toy-wide"], weights="random", seed=2)
    with pytest.raises(DataError, match="'clip' computed from something else: weights is"):
        open_cache(other, toy.samples(), tmp_path)


def test_region_experts_depend_on_the_text_tower(toy: Any, tmp_path: Path):
    model = calibrated(toy, ["toy-names"], clip=toy.reading_clip)
    filled(toy, model, tmp_path)
    with torch.no_grad():
        model.tower.model.token_embedding.weight += 1
    with pytest.raises(DataError, match="'toy-names' computed from something else: text is"):
        open_cache(model, toy.samples(), tmp_path)


def test_an_upgraded_plugin_is_refused_and_an_upgraded_library_told(
    toy: Any, tmp_path: Path, monkeypatch: Any, request: pytest.FixtureRequest
):
    from tove_core.training import cached

    model = calibrated(toy)
    filled(toy, model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_cache(model, toy.samples(), tmp_path)
    upgraded = {**cached._versions(), "torch": "99.0"}
    with monkeypatch.context() as patch:
        patch.setattr(cached, "_versions", lambda: upgraded)
        with pytest.warns(UserWarning, match=r'clip, toy-fine, .*torch is .* and "99.0" here') as told:
            open_cache(model, toy.samples(), tmp_path)
        assert len(told) == 1
    metadata = toy.site / "toy_experts-1.0.dist-info" / "METADATA"
    before = metadata.read_text()
    metadata.write_text(before.replace("Version: 1.0", "Version: 1.1"))
    request.addfinalizer(lambda: (metadata.write_text(before), plugins.registry.cache_clear()))
    plugins.registry.cache_clear()
    with pytest.raises(DataError, match=r"'toy-fine' .*version is \"1.0\" there and \"1.1\" here"):
        open_cache(model, toy.samples(), tmp_path)


def test_calibration_on_other_images_is_refused(toy: Any, tmp_path: Path):
    filled(toy, calibrated(toy), tmp_path)
    other = toy.build()
    prepare(other, toy.samples()[:2])
    with pytest.raises(DataError, match=r"'toy-fine' .*calibrated on other images"):
        open_cache(other, toy.samples(), tmp_path)


def test_an_image_that_vanished_is_named(toy: Any, tmp_path: Path):
    import shutil
    from dataclasses import replace

    model = calibrated(toy)
    filled(toy, model, tmp_path)
    copy = tmp_path / "copy.png"
    shutil.copy(toy.pictures(1)[0], copy)
    samples = [replace(sample, image=copy) for sample in toy.samples()[:1]]
    assert len(open_cache(model, samples, tmp_path)) == 1
    copy.unlink()
    with pytest.raises(DataError, match=r"copy.png cannot be read"):
        open_cache(model, samples, tmp_path)


def test_an_image_that_is_repaired_changes_the_statistics_and_so_the_features_of_fixed_norm_alone(toy, tmp_path):
    shutil.copytree(toy.data.parent, tmp_path / "data")
    samples = read(DataConfig(path=tmp_path / "data" / "toy.jsonl"))
    whole = (tmp_path / "data" / "5.png").read_bytes()
    (tmp_path / "data" / "5.png").write_bytes(b"no image")
    model = toy.build()
    prepare(model, samples)
    assert len(build_cache(model, cache_builder(model, samples, tmp_path / "cache")).broken) == 1
    (tmp_path / "data" / "5.png").write_bytes(whole)
    repaired = toy.build()
    prepare(repaired, samples)
    missing = cache_builder(repaired, samples, tmp_path / "cache").estimate().missing
    assert missing == {"clip": 1, "toy-wide": 1, "toy-whole": 1, "toy-fine": 12}


def test_weights_of_a_transformers_clip_are_read_once_as_well(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import CLIPConfig, CLIPModel

    from tove_core.training import cached

    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    seen = sizes | {"image_size": 40, "patch_size": 8}
    text = sizes | {"vocab_size": 61, "bos_token_id": 0, "eos_token_id": 1}
    CLIPModel(CLIPConfig(vision_config=seen, text_config=text, projection_dim=20)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    model, read = toy.build([], decoder=None, clip=f"hf:{tmp_path}"), []
    plain = cached._weights
    monkeypatch.setattr(cached, "_weights", lambda module: read.append(module) or plain(module))
    first, again = (feature_fingerprints(model)[0].decides["weights"] for _ in range(2))
    assert first == again and len(read) == 1
    with torch.no_grad():
        model.tower.model.visual_projection.weight[0, 0] += 1
    assert feature_fingerprints(model)[0].decides["weights"] != first and len(read) == 2


def test_weights_are_read_again_once_they_are_changed(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tove_core.training import cached

    plain, read = cached._weights, []
    monkeypatch.setattr(cached, "_weights", lambda module: read.append(module) or plain(module))
    model = calibrated(toy, ["toy-wide"])

    def weights() -> list[Any]:
        return [one.decides["weights"] for one in feature_fingerprints(model)]

    first = weights()
    assert weights() == first and len(read) == 2
    expert, moved = model.experts["toy-wide"].module, model.tower.vision
    parameter = next(expert.parameters())
    before = parameter.clone()
    with torch.no_grad():
        parameter.view(-1)[0] += 1
    second = weights()
    assert second[0] == first[0] and second[1] != first[1] and read[2:] == [expert]
    moved.to(torch.float64)
    assert weights()[0] != first[0] and read[3:] == [moved]
    with torch.no_grad():
        parameter.copy_(before)
    assert weights()[1] == first[1]
