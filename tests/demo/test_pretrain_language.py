"""The language model's recipe runs and leaves what a decoder loads; what it learns takes minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tove_core.builder import build
from tove_core.demo import pretrain_language
from tove_core.demo.shipped import ASSETS
from tove_core.demo.world import decoder


@pytest.mark.slow
def test_the_recipe_leaves_a_language_model_and_projector_that_build_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("tokenizer", "clip"):
        shutil.copytree(ASSETS / part, tmp_path / part)
    monkeypatch.setattr(pretrain_language, "SCENES", 30)
    said: list[str] = []
    pretrain_language.pretrain(tmp_path, steps=2, report=said.append)
    assert said == ["language model: 270 samples"]  # eight questions of all types and a caption for each scene
    settings = decoder().model_copy(
        update={"name": str(tmp_path / "lm"), "projector": str(tmp_path / pretrain_language.PROJECTOR)}
    )
    fresh = build(clip=f"local-dir:{tmp_path / 'clip'}", decoder=settings).decoder
    assert fresh is not None
    weights = list(fresh.parameters())
    assert all(torch.equal(p, p.half().float()) for p in weights), "shipped, and gone on from, in float16"
    assert sum(p.numel() for p in weights) == 479_616
