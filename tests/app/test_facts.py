from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tove_core.app.facts import facts, warnings_of
from tove_core.checkpoint import read_manifest
from tove_core.publishing.terms import Part, parts_of


def foot(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    return facts(model, "runs/mine", parts_of(read_manifest(folder)))


def test_the_foot_names_every_part_with_its_licence(toy: Any, tmp_path: Path) -> None:
    told = foot(toy.build(), tmp_path / "saved")
    for text in ("runs/mine", toy.decoder, *toy.experts, "toy-experts 1.0", "weights under MIT"):
        assert text in told
    assert "a licence tove does not know" in told, "CLIP's and the language model's"


def test_an_expert_that_is_off_in_the_checkpoint_is_named(toy: Any, tmp_path: Path) -> None:
    model = toy.build()
    assert "off in the checkpoint" not in foot(model, tmp_path / "on")
    model.detach("toy-wide")
    assert "off in the checkpoint</th><td>toy-wide</td>" in foot(model, tmp_path / "off")


def test_a_merged_model_says_that_it_holds_no_experts(toy: Any, tmp_path: Path) -> None:
    model = toy.build([])
    assert "this model holds no experts" in foot(model, tmp_path / "plain")
    model.origin = model.origin.model_copy(update={"own_tower": True})
    assert "was merged and holds no experts" in foot(model, tmp_path / "merged")


def test_what_was_never_trained_says_so_until_it_is(toy: Any, tmp_path: Path) -> None:
    model = toy.build()
    assert len(warnings_of(model)) == 1 and "never trained" in foot(model, tmp_path / "new")
    model.trained = True
    assert warnings_of(model) == [] and "never trained" not in foot(model, tmp_path / "trained")


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_the_embedded_worlds_clip_is_told_of() -> None:
    import tove_core

    model = tove_core.build([], clip="package:tove_core.demo/assets/clip", decoder=None)
    assert any("only seen rendered scenes" in told for told in warnings_of(model))


def test_names_cannot_bring_html_into_the_page(toy: Any) -> None:
    part = Part("expert", "<script>alert(1)</script>", "a & b", "<b>", None, owned=True)
    told = facts(toy.build(), "<img src=x>", [part])
    assert "<script>" not in told and "<img" not in told and "<b>" not in told
    assert "&lt;script&gt;" in told and "a &amp; b" in told
