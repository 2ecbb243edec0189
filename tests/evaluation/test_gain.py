from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tove_core.config import TrainingConfig
from tove_core.errors import ConfigError, UnknownExpertError
from tove_core.evaluation.evaluate import evaluate
from tove_core.evaluation.gain import measure_gain
from tove_core.evaluation.loss import mean_loss
from tove_core.training import fit
from tove_core.training.examples import Examples

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


def test_features_that_are_kept_nowhere_are_computed_batch_by_batch_and_unreadable_images_left_out(
    grown: Any, toy: Any, tmp_path: Path
) -> None:
    model, _, _, _ = grown
    samples = toy.samples()
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    torn = [*samples[:7], replace(samples[7], image=tmp_path / "torn.png"), *samples[8:]]
    live = Examples(model, torn, max_broken=0.1, workers=2)
    with pytest.warns(UserWarning, match="1 of 12 images so far are left out"):
        gain = measure_gain(model, ["toy-whole"], live)
    assert live.table is None and live.reader is None, "nothing is kept"
    assert set(gain.after.predictions) == set(gain.before.predictions) == {s.id for s in torn} - {"s7"}
    fewer = measure_gain(model, ["toy-whole"], Examples(model, [*samples[:7], *samples[8:]]))
    assert gain.after == fewer.after and gain.before == fewer.before and gain.interval == fewer.interval
    assert gain.loss_after == pytest.approx(fewer.loss_after, abs=1e-5)


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
