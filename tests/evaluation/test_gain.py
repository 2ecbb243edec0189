from __future__ import annotations

from typing import Any

import pytest

from tove_core.config import TrainingConfig
from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.evaluation.evaluate import evaluate
from tove_core.evaluation.gain import measure_gain
from tove_core.evaluation.loss import mean_loss
from tove_core.training import fit

FEW = TrainingConfig(steps=8, batch_size=5, learning_rate=0.03, warmup=1)


@pytest.fixture(scope="module")
def grown(toy: Any) -> tuple[Any, Any, Any, float]:
    """A model an expert joined, its data, and what was measured before it did."""
    model = toy.build(["toy-wide"])
    fit(model, toy.examples(model), FEW, quiet=True)
    examples = toy.examples(model)
    before, loss = evaluate(model, examples), mean_loss(model, examples)
    model.add_expert("toy-whole")
    fit(model, toy.examples(model), FEW, quiet=True, only=["toy-whole"])
    return model, toy.examples(model), before, loss


def test_before_is_the_old_model_and_after_is_the_new_one(grown: Any) -> None:
    model, examples, before, loss = grown
    gain = measure_gain(model, ["toy-whole"], examples)
    assert gain.before == before and gain.loss_before == loss
    assert gain.after == evaluate(model, examples) and gain.loss_after == mean_loss(model, examples) != loss
    assert model.active_experts == ["toy-wide", "toy-whole"]


def test_the_interval_is_over_images_around_the_difference(grown: Any) -> None:
    model, examples, _, _ = grown
    gain = measure_gain(model, ["toy-whole"], examples)
    assert gain.interval.mean == pytest.approx(gain.after.accuracy - gain.before.accuracy), "one question per image"
    assert gain.interval.low <= gain.interval.mean <= gain.interval.high


def test_the_table_and_the_file_say_the_same(grown: Any) -> None:
    model, examples, _, _ = grown
    gain = measure_gain(model, ["toy-whole"], examples)
    rows = {line.split()[0]: line.split()[1:] for line in str(gain).splitlines()[1:]}
    content = gain.plain()
    assert content["experts"] == ["toy-whole"]
    assert list(content["scores"]) == ["colour", "dark", "all", "CIDEr-D", "ROUGE-L", "BLEU-4", "loss"]
    for name, row in content["scores"].items():
        assert [float(x) for x in rows[name][:2]] == [round(row["before"], 3), round(row["after"], 3)]
        assert float(rows[name][2]) == pytest.approx(row["after"] - row["before"], abs=6e-4)
    assert content["scores"]["all"]["n"] == 8


def test_experts_that_are_off_or_not_there_have_no_gain(grown: Any) -> None:
    model, examples, _, _ = grown
    with pytest.raises(UnknownExpertError, match="toy-none"):
        measure_gain(model, ["toy-whole", "toy-none"], examples)
    assert model.active_experts == ["toy-wide", "toy-whole"]
    model.detach("toy-whole")
    for names in (["toy-whole"], []):
        with pytest.raises(ConfigError, match="name experts that are on"):
            measure_gain(model, names, examples)
    model.attach("toy-whole")
