from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tove_core.errors import ConfigError, DataError
from tove_core.selection import select
from tove_core.selection.parts import parted
from tove_core.selection.report import ALL, CHOSEN, MIXED, NONE, SHUFFLED, STATIC, Difference, SelectionReport
from tove_core.training.examples import Examples

OPTIONS: dict[str, Any] = {"steps": 6, "batch_size": 5, "learning_rate": 1e-2, "hidden": 8, "seed": 3}


def trained(toy: Any, **options: Any) -> Any:
    from tove_core.config import TrainingConfig
    from tove_core.training import fit

    model = toy.build(seed=1, **options)
    examples = toy.examples(model)
    fit(model, examples, TrainingConfig(steps=12, batch_size=8, learning_rate=1e-2, warmup=1), quiet=True)
    return model


@pytest.fixture(scope="module")
def model(toy: Any) -> Any:
    return trained(toy)


def asked_twice(toy: Any) -> list[Any]:
    return [replace(one, id=f"{one.id}-{k}") for one in toy.samples() for k in range(2)]


def test_the_model_selects_as_the_report_says_and_nothing_else_of_it_changes(toy: Any, model: Any) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("selector.")}
    examples = Examples.cached(model, asked_twice(toy))
    report = select(model, examples, 0.4, **OPTIONS)
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert model.selects and model.selector.selection == report.selection
    assert report.selection.budget == 0.4 and sum(report.selection.costs.values()) == pytest.approx(1)
    assert report.samples == {"learnt from": 14, "chosen on": 6, "scored": 4}
    assert report.rows[ALL].cost == pytest.approx(1) and report.rows[NONE].cost == 0
    assert report.rows[STATIC].cost <= 0.4 and report.rows[MIXED].cost <= 0.4 + 1e-9
    costs = report.selection.costs
    assert report.rows[CHOSEN].cost == pytest.approx(sum(report.ran[name] * costs[name] for name in costs))
    assert report.against[ALL].mean == pytest.approx(report.rows[CHOSEN].loss - report.rows[ALL].loss)
    for name in (*costs, STATIC, CHOSEN, "on"):
        assert name in str(report)
    again = select(model, examples, 0.4, **OPTIONS)
    assert again == report


def test_features_that_are_kept_nowhere_give_the_same_and_unreadable_images_are_left_out(
    toy: Any, model: Any, tmp_path: Path
) -> None:
    samples = asked_twice(toy)
    live = select(model, Examples(model, samples, workers=2), 0.6, **OPTIONS)
    kept = select(model, Examples(model, samples), 0.6, **OPTIONS)
    assert live == kept
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    lost = parted(Examples(model, samples), OPTIONS["seed"]).learn.samples[0].image
    torn = [replace(one, image=tmp_path / "torn.png") if one.image == lost else one for one in samples]
    with pytest.warns(UserWarning, match="1 of 12 images so far are left out"):
        found = select(model, Examples(model, torn, max_broken=0.1), 0.6, **OPTIONS)
    assert found.rows.keys() == live.rows.keys()
    with pytest.raises(DataError, match="max_broken"):
        select(model, Examples(model, torn, max_broken=0.01), 0.6, **OPTIONS)


def test_samples_too_long_for_the_language_model_are_left_out(
    toy: Any, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = asked_twice(toy)
    samples[7] = replace(samples[7], targets=("black " * 200,))
    monkeypatch.setattr(model.decoder.language_model.config, "max_position_embeddings", 100)
    with pytest.warns(UserWarning, match="positions, more than the 100"):
        report = select(model, Examples.cached(model, samples, max_broken=0.1), 0.4, **OPTIONS)
    assert sum(report.samples.values()) == 23


def test_experts_that_are_off_are_not_chosen_from_and_stay_off(toy: Any) -> None:
    model = trained(toy)
    model.detach("toy-wide")
    report = select(model, Examples.cached(model, asked_twice(toy)), 0.5, **OPTIONS)
    assert set(report.ran) == {"toy-fine", "toy-whole"} and model.fusion.off == {"toy-wide": "zero"}
    assert set(model.select(toy.pictures(2))) == {"toy-fine", "toy-whole"}


def test_a_fusion_without_a_gate_can_select(toy: Any) -> None:
    model = trained(toy, fusion="concat")
    costs = {"toy-fine": 1.0, "toy-wide": 1.0, "toy-whole": 0.0}
    report = select(model, Examples.cached(model, asked_twice(toy)), 0.5, costs=costs, **OPTIONS)
    assert report.selection.costs == {"toy-fine": 0.5, "toy-wide": 0.5, "toy-whole": 0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 0}, "the budget is 0"),
        ({"budget": 1.0}, "the budget is 1.0"),
        ({"budget": float("nan")}, "the budget is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0}, "learning rate is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"costs": {"toy-fine": 1}}, "costs are given for toy-fine"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(toy: Any, model: Any, options: Any, said: str) -> None:
    model.selector = None
    with pytest.raises(ConfigError, match=said):
        select(model, Examples.cached(model, toy.samples()), **({"budget": 0.5} | options))
    assert model.selector is None


def test_models_that_cannot_select_are_refused(toy: Any) -> None:
    silent, bare, new = toy.build(decoder=None), toy.build([]), toy.build()
    alone = toy.build(fusion={"kind": "gate", "replace": True})
    said = ((silent, "decoder=None"), (bare, "no expert on"), (alone, "fusion.replace"), (new, "never trained"))
    for model, words in said:
        with pytest.raises(ConfigError, match=words):
            select(model, Examples(model, toy.samples()), 0.5)


def test_the_conclusion_is_no_kinder_than_the_figures(toy: Any, model: Any) -> None:
    report = select(model, Examples.cached(model, asked_twice(toy)), 0.4, **OPTIONS)
    better, same = Difference(mean=-0.2, low=-0.3, high=-0.1), Difference(mean=-0.2, low=-0.5, high=0.1)

    def concluded(static: Difference, mixed: Difference) -> str:
        against = report.against | {STATIC: static, MIXED: mixed}
        return report.model_copy(update={"against": against}).conclusion

    assert "beats every fixed choice" in concluded(better, better)
    assert "but not two of them mixed at random" in concluded(better, same)
    assert "does not beat" in concluded(same, better) and "does not beat" in concluded(same, same)
    assert (better.verdict, same.verdict) == ("better than", "not told apart from")
    assert Difference(mean=1, low=0.5, high=2).verdict == "worse than"
    assert SelectionReport.model_validate(report.model_dump(mode="json")) == report and SHUFFLED in report.against
