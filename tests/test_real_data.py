"""On pictures and questions nobody here made: easy-VQA is learned, and photographs break nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tove_core.builder import assemble
from tove_core.config import DataConfig, RunConfig
from tove_core.data.readers import read
from tove_core.demo.world import model_config
from tove_core.evaluation.evaluate import evaluate
from tove_core.settings import read_config
from tove_core.training.run import make_examples, train

RECIPE = Path(__file__).parents[1] / "docs" / "recipes" / "easy-vqa.yaml"


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_recipe_answers_easy_vqa_far_better_than_the_majority_answer(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shared_data("easy-vqa")
    changed = [f"data.path={folder}", "data.limit=3000", "training.steps=200", f"output={tmp_path / 'run'}"]
    model = train(read_config(RunConfig, RECIPE, changed), quiet=True)
    samples = read(DataConfig(reader="easy-vqa", path=folder, split="test", limit=800))
    scores = evaluate(model, make_examples(model, samples, cache=True, quiet=True))
    assert scores.accuracy is not None and scores.majority is not None
    assert scores.accuracy > scores.majority + 0.15


@pytest.mark.shared_data
def test_every_photograph_of_coco_gets_a_caption_of_some_sort(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("coco-mini")
    images = sorted((folder / "images").glob("*.jpg"))
    assert len(images) == len(json.loads((folder / "captions.json").read_text())["images"])
    model = assemble(model_config("gate"))
    with pytest.warns(UserWarning, match="never trained"):
        captions = model.caption(images, max_new_tokens=12)
    assert len(captions) == len(images) and all(isinstance(text, str) for text in captions)
