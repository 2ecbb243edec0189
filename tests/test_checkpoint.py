from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tove_core import ToveModel, checkpoint
from tove_core.errors import CheckpointError, ToveError, WeightsError
from tove_core.hub.digest import sha256

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")
QUALIFIED = "toy-experts/toy-whole:large"


def everything(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def assert_same(one: Any, other: Any, toy: Any) -> None:
    tensors = everything(other)
    assert everything(one).keys() == tensors.keys()
    assert [name for name, tensor in everything(one).items() if not torch.equal(tensor, tensors[name])] == []
    assert torch.equal(one.tokens(toy.pictures()), other.tokens(toy.pictures()))
    assert one.caption(toy.pictures(2)) == other.caption(toy.pictures(2))
    for name in ("config", "provenance", "origin", "calibrated", "trained"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.fusion.off == other.fusion.off and one.fusion.ghosts == other.fusion.ghosts
    assert one.active_experts == other.active_experts


def unusual(toy: Any, **options: Any) -> Any:
    """A model with everything a checkpoint has to keep: one expert off, one ghost, values training would set."""
    model = toy.build(["toy-fine", "toy-wide", QUALIFIED, "toy-whole"], seed=2, **options)
    model.calibrate(toy.pictures(4))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    model.trained = True
    model.detach("toy-whole", "zero")
    model.prune()
    model.detach("toy-wide", "renormalise")
    return model


@pytest.fixture(scope="module")
def saved(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unusual(toy).save_pretrained(tmp_path_factory.mktemp("saved") / "it")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def refused(folder: Path, error: type = CheckpointError) -> str:
    with pytest.raises(error) as caught:
        ToveModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rehash(folder: Path) -> None:
    manifest = json.loads((folder / "tove.json").read_text())
    manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    (folder / "tove.json").write_text(json.dumps(manifest))


def edit(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "tove.json").read_text()) | changes
    (folder / "tove.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("weights", ["pinned", "random"])
def test_a_round_trip_keeps_every_bit(toy: Any, tmp_path: Path, full: bool, weights: str) -> None:
    model = unusual(toy, weights=weights)
    loaded = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "one", full=full))
    assert_same(model, loaded, toy)
    assert not any(p.requires_grad for p in (*loaded.tower.parameters(), *loaded.experts.parameters()))
    loaded.attach("toy-wide")
    model.attach("toy-wide")
    assert torch.equal(model.tokens(toy.pictures()), loaded.tokens(toy.pictures()))


def test_nothing_trained_is_copied_to_see_whether_it_fits(
    toy: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = toy.build(seed=4)
    before.save_pretrained(tmp_path / "before")

    def copied(tensors: Any) -> Any:
        raise AssertionError(f"{len(tensors)} tensors are copied")

    monkeypatch.setattr(checkpoint, "_on_cpu", copied)
    checkpoint.load(saved)
    begun = toy.build(seed=5)
    checkpoint.start_from(begun, tmp_path / "before")
    assert torch.equal(begun.fusion.second.weight, before.fusion.second.weight)


def test_by_reference_no_frozen_weights_are_inside(toy: Any, saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == ["model.safetensors", "tove.json"]
    names = set(load_file(saved / "model.safetensors"))
    assert not any(name.startswith(("tower", "experts", "decoder.language_model")) for name in names)


@pytest.mark.parametrize("fusion", ["uniform", "concat", "clip-mlp"])
def test_every_fusion_can_be_saved(toy: Any, tmp_path: Path, fusion: str) -> None:
    model = toy.build([] if fusion == "clip-mlp" else ["toy-fine", "toy-whole"], fusion=fusion)
    model.calibrate(toy.pictures(3))
    model.trained = True
    assert_same(model, ToveModel.from_pretrained(model.save_pretrained(tmp_path / "one")), toy)


def test_a_width_found_from_a_parameter_budget_is_kept(toy: Any, tmp_path: Path) -> None:
    model = toy.build(["toy-fine"], fusion={"kind": "uniform", "parameters": 3000}, decoder=None)
    loaded = ToveModel.from_pretrained(model.save_pretrained(tmp_path / "one"))
    assert loaded.fusion.hidden == model.fusion.hidden != model.tower.width


def test_a_model_without_experts_or_with_all_pruned_can_be_saved(toy: Any, tmp_path: Path) -> None:
    for model, name in ((toy.build([]), "none"), (toy.build(["toy-fine"]), "all")):
        for expert in model.active_experts:
            model.detach(expert)
            model.prune()
        loaded = ToveModel.from_pretrained(model.save_pretrained(tmp_path / name))
        assert torch.equal(loaded.tokens(toy.pictures()), model.tokens(toy.pictures()))
        assert loaded.caption(toy.pictures(2)) == model.caption(toy.pictures(2))
        assert loaded.fusion is None and not trained_fusion(tmp_path / name)


def trained_fusion(folder: Path) -> list[str]:
    return [name for name in load_file(folder / "model.safetensors") if name.startswith("fusion")]


def test_a_transformers_clip_is_saved_inside_too(toy: Any, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    sides = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision, text = sides | {"image_size": 24, "patch_size": 8}, sides | {"vocab_size": 50, "eos_token_id": 49}
    torch.manual_seed(1)
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=12)).save_pretrained(tmp_path / "hf")
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 3}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    model = toy.build(["toy-fine"], clip=f"hf:{tmp_path / 'hf'}", decoder=None)
    tokens = model.tokens(toy.pictures())
    model.save_pretrained(tmp_path / "saved", full=True)
    shutil.rmtree(tmp_path / "hf")
    assert torch.equal(ToveModel.from_pretrained(tmp_path / "saved").tokens(toy.pictures()), tokens)


def test_a_whole_language_model_that_was_trained_is_kept(toy: Any, tmp_path: Path) -> None:
    model = toy.build(["toy-fine"], decoder={"train": "all"})
    with torch.no_grad():
        model.decoder.language_model.get_input_embeddings().weight.mul_(1.5)
    model.trained = True
    for full in (False, True):
        assert_same(model, ToveModel.from_pretrained(model.save_pretrained(tmp_path / str(full), full=full)), toy)


def test_a_full_checkpoint_needs_nothing_outside_and_can_be_moved(toy: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("clip", "decoder"):
        shutil.copytree(toy.root / name, outside / name)
    projector = toy.build().decoder.projector.state_dict()
    save_file(projector, outside / "projector.safetensors")
    decoder = {"name": str(outside / "decoder"), "projector": str(outside / "projector.safetensors")}
    model = unusual(toy, clip=f"local-dir:{outside / 'clip'}", decoder=decoder)
    tokens, said = model.tokens(toy.pictures()), model.caption(toy.pictures(2))
    model.save_pretrained(tmp_path / "first" / "full", full=True)
    shutil.rmtree(outside)
    shutil.move(tmp_path / "first", tmp_path / "second")
    loaded = ToveModel.from_pretrained(tmp_path / "second" / "full")
    assert torch.equal(loaded.tokens(toy.pictures()), tokens) and loaded.caption(toy.pictures(2)) == said
    again = ToveModel.from_pretrained(loaded.save_pretrained(tmp_path / "third", full=True))
    assert_same(loaded, again, toy)


def test_full_by_a_relative_path(toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = toy.build(["toy-fine"])
    model.save_pretrained("here", full=True)
    assert torch.equal(ToveModel.from_pretrained("here").tokens(toy.pictures()), model.tokens(toy.pictures()))


def test_a_truncated_or_altered_file_is_noticed(copied: Path) -> None:
    path = copied / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert "altered or truncated" in refused(copied)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "altered or truncated" in refused(copied)
    path.unlink()
    assert "model.safetensors is missing" in refused(copied)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"format": 2}, "format 2"),
        ({"format": None}, "format None"),
        ({"calibratd": True}, "calibratd"),
        ({"off": {"toy-none": "zero"}}, "toy-none"),
        ({"off": {"toy-wide": "sometimes"}}, "off.toy-wide"),
        ({"ghosts": []}, "does not fit"),
        ({"files": {}}, "model.safetensors"),
    ],
)
def test_an_edited_manifest_is_refused(copied: Path, changes: dict, wanted: str) -> None:
    edit(copied, **changes)
    assert wanted in refused(copied)


@pytest.mark.parametrize("text", ["", "[]", "{", '"format"', "\xff"])
def test_a_manifest_that_is_none_is_refused(copied: Path, text: str) -> None:
    (copied / "tove.json").write_bytes(text.encode("latin-1"))
    assert "tove.json" in refused(copied)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert "no tove.json" in refused(tmp_path)
    assert "there is no folder" in refused(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "file is a file, not the folder of a checkpoint" in refused(tmp_path / "file")


def test_a_run_that_is_not_finished_is_told_with_how_it_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "my run"
    run.mkdir()
    (run / "config.yaml").write_text("training:\n  steps: 300\n")
    assert f"no state was saved yet; go on with 'tove train '{run}' --resume'" in refused(run)
    for step in (9, 31):
        (run / "state" / f"step-{step:08d}").mkdir(parents=True)
    assert "its last state is of step 31 of 300, and it has no checkpoint yet; go on with" in refused(run)
    (run / "config.yaml").write_text("training: [")
    assert "of step 31, and" in refused(run)


def test_the_folder_around_a_checkpoint_is_read_like_the_checkpoint(toy: Any, saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(saved, run / "checkpoint")
    (run / "config.yaml").write_text("{}")
    assert_same(ToveModel.from_pretrained(saved), ToveModel.from_pretrained(str(run)), toy)
    assert checkpoint.read_manifest(run) == checkpoint.read_manifest(saved)


def test_tensors_of_another_architecture_are_refused(toy: Any, copied: Path) -> None:
    path = copied / "model.safetensors"
    whole = {name: tensor.clone() for name, tensor in load_file(path).items()}  # older safetensors map the file
    save_file({k: v[:1].clone() if k == "fusion.second.weight" else v for k, v in whole.items()}, path)
    rehash(copied)
    assert "fusion.second.weight is [1, 32] where the model has [32, 32]" in refused(copied)
    save_file({k: v for k, v in whole.items() if not k.startswith("align")}, path)
    rehash(copied)
    assert "lacks" in refused(copied)
    path.write_bytes(b"nonsense")
    rehash(copied)
    refused(copied, ToveError)


def test_frozen_weights_that_changed_under_a_reference_are_refused(toy: Any, tmp_path: Path) -> None:
    for part in ("clip", "decoder"):
        shutil.copytree(toy.root / part, tmp_path / part)
    model = toy.build(clip=f"local-dir:{tmp_path / 'clip'}", decoder={"name": str(tmp_path / "decoder")})
    folder = model.save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "clip" / "open_clip_model.safetensors", tmp_path / "decoder" / "model.safetensors"):
        before = file.read_bytes()
        tensors = load_file(file)
        first = sorted(tensors)[0]
        save_file(tensors | {first: tensors[first] + 1}, file, {"format": "pt"})
        assert "other frozen parts" in refused(folder)
        file.write_bytes(before)
    ToveModel.from_pretrained(folder)


def test_an_experts_weights_that_changed_under_a_reference_are_refused(toy: Any, copied: Path) -> None:
    file = toy.site / "toy_experts" / "toy-wide.safetensors"
    before = file.read_bytes()
    try:
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        told = refused(copied, WeightsError)
        assert "expert 'toy-wide' ships other weights" in told and "recorded with toy-experts 1.0" in told
        assert "install toy-experts==1.0, or use a checkpoint that was saved with full=True" in told
    finally:
        file.write_bytes(before)


def test_an_expert_nobody_offers_any_more_is_named(toy: Any, copied: Path) -> None:
    text = (copied / "tove.json").read_text().replace("toy-fine", "toy-gone")
    (copied / "tove.json").write_text(text)
    assert "toy-gone" in refused(copied, ToveError)


def test_saving_over_something_else_is_refused_and_leaves_it(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("mine", "file"):
        with pytest.raises(CheckpointError, match="not a tove checkpoint"):
            toy.build([], decoder=None).save_pretrained(tmp_path / name)
    assert (tmp_path / "mine" / "letter.txt").read_text() == (tmp_path / "file").read_text() == "dear"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_midway_leaves_the_old_checkpoint_and_nothing_else(
    toy: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool, error: BaseException
) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "old" / "it"))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    model, calls = ToveModel.from_pretrained(folder), []

    def failing(tensors: Any, path: Path) -> None:
        calls.append(path)
        save_file(tensors, path)
        if len(calls) == (2 if full else 1):
            raise error

    monkeypatch.setattr(checkpoint, "save_file", failing)
    wanted = CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        model.save_pretrained(folder, full=full)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in folder.parent.iterdir()] == ["it"]
    calls.clear()
    with pytest.raises(wanted):
        model.save_pretrained(tmp_path / "new", full=full)
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_survives_when_the_new_one_cannot_take_its_place(
    toy: Any, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rename = ToveModel.from_pretrained(copied), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match="Permission denied"):
        model.save_pretrained(copied)
    monkeypatch.undo()
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]
    ToveModel.from_pretrained(copied)


def test_saving_again_replaces_a_checkpoint_as_a_whole(toy: Any, tmp_path: Path) -> None:
    toy.build(["toy-fine"]).save_pretrained(tmp_path / "it", full=True)
    model = toy.build(["toy-whole"])
    model.save_pretrained(tmp_path / "it")
    assert sorted(p.name for p in (tmp_path / "it").iterdir()) == ["model.safetensors", "tove.json"]
    assert list(ToveModel.from_pretrained(tmp_path / "it").experts) == ["toy-whole"]


@pytest.mark.parametrize("full", [False, True])
def test_an_expert_whose_state_holds_more_than_tensors_is_saved_and_loaded(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    import toy_experts  # type: ignore[import-not-found]

    monkeypatch.setattr(toy_experts.Patches, "get_extra_state", lambda self: {"steps": 3}, raising=False)
    monkeypatch.setattr(toy_experts.Patches, "set_extra_state", lambda self, state: None, raising=False)
    model = toy.build(["toy-wide", "toy-fine"], decoder=None)
    model.calibrate(toy.pictures(3))
    model.save_pretrained(tmp_path / "saved", full=full)
    assert torch.equal(checkpoint.load(tmp_path / "saved").tokens(toy.pictures(2)), model.tokens(toy.pictures(2)))
