from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tove_core import ToveModel
from tove_core.config import MergeConfig, TrainingConfig
from tove_core.errors import CheckpointError, ConfigError, DataError, ToveError
from tove_core.hub.view import Preprocessor
from tove_core.merging import merge
from tove_core.merging import teacher as teaching
from tove_core.merging.teacher import Teacher
from tove_core.merging.write import write_merged
from tove_core.training import fit
from tove_core.training.examples import Examples

LOADER = """
import json, sys, torch, open_clip
found = {}
for folder in sys.argv[1:]:
    model = open_clip.create_model("local-dir:" + folder).eval().requires_grad_(False)
    pixels = torch.load(folder + ".pixels.pt", weights_only=True)
    text = torch.arange(1, 10)[None]
    found[folder] = [model.encode_image(pixels).flatten().tolist(), model.encode_text(text).flatten().tolist()]
json.dump([found, "tove_core" in sys.modules], sys.stdout)
"""


def config(**changes: Any) -> MergeConfig:
    return MergeConfig.model_validate({"steps": 30, "batch_size": 6, "warmup": 1, "learning_rate": 2e-3} | changes)


def teacher(toy: Any, **options: Any) -> tuple[Any, Any]:
    model = toy.build(seed=1, **options)
    examples = toy.examples(model)
    fit(model, examples, TrainingConfig(steps=10, batch_size=8, learning_rate=1e-2, warmup=1), quiet=True)
    return model, examples


@pytest.fixture(scope="module")
def taught(toy: Any) -> tuple[Any, Any]:
    return teacher(toy)


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def distance(student: Any, model: Any, toy: Any) -> float:
    wanted = model.tokens(toy.pictures(12))
    return (F.mse_loss(student.tokens(toy.pictures(12)), wanted) / wanted.square().mean()).item()


def test_merging_leaves_the_global_generator_as_it_was(toy: Any, taught: tuple[Any, Any]) -> None:
    model, examples = taught
    torch.manual_seed(11)
    before = torch.get_rng_state()
    merge(model, examples, config(steps=2), quiet=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_student_starts_exactly_at_clips_own_tokens(toy: Any, taught: tuple[Any, Any]) -> None:
    model, examples = taught
    student = merge(model, examples, config(steps=1, learning_rate=1e-30, weight_decay=0), quiet=True)
    assert torch.equal(student.tokens(toy.pictures()), toy.build([], decoder=None).tokens(toy.pictures()))
    assert not student.experts and student.fusion is None


def test_the_student_comes_nearer_and_keeps_to_its_text(toy: Any, taught: tuple[Any, Any]) -> None:
    model, examples = taught
    before = snapshot(model)
    student = merge(model, examples, config(), quiet=True)
    assert distance(student, model, toy) < 0.7 * distance(toy.build([], decoder=None), model, toy)
    assert changed(before, snapshot(model)) == set()
    moved = changed(snapshot(model.tower), snapshot(student.tower))
    assert moved and all(name.startswith("model.visual.") for name in moved)
    assert not any(p.requires_grad for p in student.tower.parameters())
    assert student.trained and not student.training
    # The embedding stays nearer to what it was than without the term that holds it.
    loose = merge(model, examples, config(alignment=0), quiet=True)
    kept, lost = (embedding_turn(one, model, examples) for one in (student, loose))
    assert kept < lost


def test_only_what_keeps_an_embedding_needs_one(
    toy: Any, taught: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = taught
    monkeypatch.setattr(model.tower, "embed_width", None)
    with pytest.raises(ConfigError, match="has no image embedding that merging could keep; set alignment to 0"):
        merge(model, examples, config(steps=1), quiet=True)
    monkeypatch.setattr(type(model.tower), "_embed", lambda *_: pytest.fail("nobody asked for an embedding"))
    for without in ({"alignment": 0}, {"control": True}):
        assert merge(model, examples, config(steps=1, **without), quiet=True).trained


def test_a_tower_of_half_precision_learns_what_one_of_float32_does_and_keeps_its_dtype(toy: Any) -> None:
    nearer = {}
    for dtype in ("float32", "bfloat16", "float16"):
        clip = {"name": toy.clip, "dtype": dtype}
        model, examples = teacher(toy, clip=clip)
        # Each step is far below what these dtypes can tell apart.
        student = merge(model, examples, config(steps=60, learning_rate=3e-5, batch_size=12), quiet=True)
        assert {p.dtype for p in student.tower.parameters()} == {model.tower.dtype}
        assert str(model.tower.dtype) == f"torch.{dtype}"
        start = distance(toy.build([], clip=clip, decoder=None), model, toy)
        nearer[dtype] = 1 - distance(student, model, toy) / start
    assert nearer["float32"] > 0.05
    assert min(nearer.values()) > 0.85 * nearer["float32"], nearer


def test_weight_decay_shrinks_matrices_alone(toy: Any, taught: tuple[Any, Any]) -> None:
    model, examples = taught
    # A rate so small that the gradient moves nothing, and a decay that then shrinks by a tenth.
    student = merge(model, examples, config(steps=1, warmup=0, learning_rate=1e-9, weight_decay=1e8), quiet=True)
    before, after = snapshot(model.tower.vision), snapshot(student.tower.vision)
    kept = {name for name in before if torch.allclose(before[name], after[name], atol=1e-7, rtol=1e-6)}
    assert {"class_embedding", "positional_embedding", "ln_pre.weight", "ln_pre.bias"} <= kept
    assert "transformer.resblocks.0.mlp.c_fc.bias" in kept
    for name in before.keys() - kept:
        assert before[name].ndim > 1 and torch.allclose(after[name], 0.9 * before[name], atol=1e-6), name
    assert {"conv1.weight", "transformer.resblocks.0.mlp.c_fc.weight"} <= before.keys() - kept


def test_of_several_texts_of_a_sample_merging_takes_each(taught: tuple[Any, Any], monkeypatch: Any) -> None:
    model, examples = taught
    taken, targets = set(), Examples.targets

    def noted(self: Examples, indices: Any, rounds: Any, **seed: Any) -> Any:
        found = targets(self, indices, rounds, **seed)
        taken.update(zip(indices, found, strict=True))
        return found

    monkeypatch.setattr(Examples, "targets", noted)
    merge(model, examples, config(steps=16), quiet=True)
    wanted = {(i, text) for i, sample in enumerate(examples.samples) for text in sample.targets}
    assert taken == wanted and any(len(sample.targets) == 2 for sample in examples.samples)


def test_samples_too_long_for_the_language_model_are_left_out_and_named(
    toy: Any, taught: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = taught
    samples = toy.samples()
    samples[7] = replace(samples[7], targets=("black " * 200,))
    monkeypatch.setattr(model.decoder.language_model.config, "max_position_embeddings", 100)
    with pytest.warns(UserWarning, match=r"sample 's7' takes \d+ positions, more than the 100 .* are left out"):
        student = merge(model, Examples(model, samples, max_broken=0.1), config(steps=3), quiet=True)
    assert changed(snapshot(model.tower), snapshot(student.tower))
    with pytest.raises(DataError, match="1 of 12 samples cannot be used"):
        merge(model, Examples(model, samples), config(steps=3), quiet=True)


@pytest.mark.parametrize("control", [False, True])
def test_a_loss_that_is_not_finite_ends_merging(taught: tuple[Any, Any], control: bool) -> None:
    model, examples = taught
    rate = {"learning_rate": 1e30, "warmup": 0, "control": control}
    with pytest.raises(
        ToveError, match=r"^the (loss|gradient) is (nan|inf) at step [23] \(samples 's.*, \.\.\.\); noth"
    ):
        merge(model, examples, config(**rate), quiet=True)


def test_an_expert_whose_values_are_not_finite_is_named(taught: tuple[Any, Any]) -> None:
    model, examples = taught
    broken = copy.copy(examples)
    shown = examples.shown

    def spoilt(some: Any, **options: Any) -> Any:
        seen = shown(some, **options)
        return replace(seen, features={k: v / 0 if k == "toy-wide" else v for k, v in seen.features.items()})

    broken.shown = spoilt
    with pytest.raises(ToveError, match=r"the loss is nan at step 1 .* for which 'toy-wide' gives values that are not"):
        merge(model, broken, config(), quiet=True)


def embedding_turn(student: Any, model: Any, examples: Any) -> float:
    pixels = Preprocessor({"clip": model.tower.input})(examples.images)["clip"]
    with torch.no_grad():
        return (1 - F.cosine_similarity(student.tower.embed(pixels), model.tower.embed(pixels)).mean()).item()


def test_the_control_has_no_teacher(toy: Any, taught: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = taught

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("the control asked the teacher")

    plain = merge(model, examples, config(control=True, steps=4), quiet=True)
    monkeypatch.setattr(model, "fuse", none)
    monkeypatch.setattr(model, "encode", none)
    again = merge(model, examples, config(control=True, steps=4, feature=9, alignment=9), quiet=True)
    assert changed(snapshot(plain), snapshot(again)) == set()
    assert changed(snapshot(model.tower), snapshot(again.tower))


def towers_images(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the teacher's tower embeds at each of its calls, from now on."""
    counts, plain = [], model.tower.embed
    monkeypatch.setattr(model.tower, "embed", lambda pixels: counts.append(len(pixels)) or plain(pixels))
    return counts


@pytest.mark.parametrize("kept", [65_536, 5])
def test_the_teachers_tower_embeds_an_image_once(
    kept: int, taught: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = taught
    monkeypatch.setattr(teaching, "KEPT", kept)
    counts, said = towers_images(model, monkeypatch), Teacher(model, examples, config())
    pixels = Preprocessor({"clip": model.tower.input})(examples.images)["clip"]
    wanted = model.tower.embed(pixels)
    counts.clear()
    for indices in ([3, 1, 3], [2, 3, 0], [7, 5, 4], [4, 7, 1]):
        torch.testing.assert_close(said.embeddings(indices, pixels[indices]), wanted[indices])
    assert counts == ([2, 2, 3] if kept > 7 else [2, 2, 3, 1]), "1, 3, 0, 2 and one of the next three are kept"
    assert len(said._embeddings) == min(7, kept)


def test_nothing_of_a_teacher_is_computed_that_the_loss_does_not_weigh(
    toy: Any, taught: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, examples = taught
    counts = towers_images(model, monkeypatch)
    merge(model, examples, config(steps=6), quiet=True)
    assert sum(counts) <= 12 < 6 * 6, "one pass for each image"

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(model, "fuse", none)
    monkeypatch.setattr(model, "encode", none)
    merge(model, Examples(model, examples.samples), config(steps=2, feature=0), quiet=False)
    assert " feature" not in (told := capsys.readouterr().err) and "alignment 0." in told
    monkeypatch.setattr(model.tower, "embed", none)
    student = merge(model, Examples(model, examples.samples), config(steps=2, feature=0, alignment=0), quiet=True)
    control = merge(model, examples, config(steps=2, control=True), quiet=True)
    assert changed(snapshot(student), snapshot(control)) == set()


def test_merging_is_repeatable_and_the_seed_counts(taught: tuple[Any, Any]) -> None:
    one, two, other = (merge(*taught, config(steps=3), seed=seed, quiet=True) for seed in (0, 0, 1))
    assert changed(snapshot(one), snapshot(two)) == set() and changed(snapshot(one), snapshot(other))


def test_what_cannot_be_merged_is_refused(toy: Any) -> None:
    silent, plain = toy.build(decoder=None), toy.build([])
    with pytest.raises(ConfigError, match="decoder=None"):
        merge(silent, toy.examples(silent), config(), quiet=True)
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge(plain, toy.examples(plain), config(), quiet=True)
    merge(plain, toy.examples(plain), config(control=True, steps=1), quiet=True)


@pytest.mark.slow
def test_the_written_folder_is_a_clip_for_open_clip_in_a_process_without_tove(
    toy: Any, taught: tuple[Any, Any], tmp_path: Path
) -> None:
    outputs = {}
    for name, (model, examples) in {"gelu": taught, "quick": teacher(toy, clip=toy.quick_clip)}.items():
        student = merge(model, examples, config(steps=3), quiet=True)
        write_merged(student, tmp_path / name)
        pixels = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
        torch.save(pixels, tmp_path / f"{name}.pixels.pt")
        with torch.no_grad():
            inner = student.tower.model
            text = inner.encode_text(torch.arange(1, 10)[None])
            outputs[name] = [inner.encode_image(pixels).flatten(), text.flatten()]
    folders = [str(tmp_path / name) for name in outputs]
    # -I: neither this process's path nor the folder it runs in.
    done = subprocess.run(
        [sys.executable, "-I", "-c", LOADER, *folders], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    found, with_tove = json.loads(done.stdout[done.stdout.index("[{") :])
    assert not with_tove
    for name, wanted in outputs.items():
        for given, own in zip(found[str(tmp_path / name)], wanted, strict=True):
            assert torch.allclose(torch.tensor(given), own, atol=1e-5)
    assert not torch.allclose(outputs["gelu"][0], outputs["quick"][0], atol=1e-3)


@pytest.mark.parametrize("fusion", ["gate", "clip-mlp"])
def test_a_merged_folder_is_complete_and_usable_as_a_clip(toy: Any, tmp_path: Path, fusion: str) -> None:
    model, examples = teacher(toy, experts=[], fusion=fusion) if fusion == "clip-mlp" else teacher(toy)
    student = merge(model, examples, config(steps=3), quiet=True)
    tokens, said = student.tokens(toy.pictures()), student.caption(toy.pictures())
    write_merged(student, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="exists already"):
        write_merged(student, tmp_path / "merged")
    again = toy.build([], clip=f"local-dir:{tmp_path / 'merged'}", decoder=None)
    assert torch.equal(again.tokens(toy.pictures()), tokens)
    loaded = ToveModel.from_pretrained(tmp_path / "merged" / "checkpoint")
    assert torch.equal(loaded.tokens(toy.pictures()), tokens) and loaded.caption(toy.pictures()) == said
    # Saved by reference it would come back with the tower it was merged from.
    for one, name in ((student, "a"), (loaded, "b")):
        saved = ToveModel.from_pretrained(one.save_pretrained(tmp_path / name))
        assert torch.equal(saved.tokens(toy.pictures()), tokens)


def test_a_folder_with_something_in_it_is_left_alone(toy: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="exists already"):
        write_merged(toy.build([]), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
