from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.diagnose import compare_part, diagnose
from tove_core.evaluation.probe import Answers, Probe, say
from tove_core.evaluation.references import Reference, check_same_data, references_of
from tove_core.evaluation.tasks import task

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")

KINDS = ("colour", "count", "far")


@pytest.fixture(scope="module")
def model(toy: Any) -> Any:
    made = toy.build()
    toy.examples(made)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(8)
        for parameter in made.fusion.gate.parameters():  # gates are equal before training
            parameter.add_(torch.randn_like(parameter))
    return made


def answers(right: np.ndarray, losses: np.ndarray, tokens: np.ndarray) -> Answers:
    names = [f"s{n}" for n in range(len(right))]
    return Answers(
        {name: "yes" if one else "no" for name, one in zip(names, right, strict=True)},
        dict(zip(names, losses.tolist(), strict=True)),
        dict(zip(names, tokens.tolist(), strict=True)),
    )


@pytest.fixture(scope="module")
def world() -> tuple[list[Reference], Probe, dict[str, str], dict[str, np.ndarray]]:
    """70 questions about 24 images: `good` carries the kind far, `idle` nothing."""
    draw = np.random.default_rng(3)
    n = 71
    kinds = np.arange(n) % 3
    references = [Reference(f"s{i}", f"i{i % 24}", ("yes",), "?", KINDS[kinds[i]]) for i in range(n)]
    full, tokens = draw.random(n) < 0.8, draw.integers(1, 4, n)
    losses = draw.random(n) * tokens
    other = np.where(kinds == 2, draw.random(n) < 0.2, full)
    good = np.where(kinds == 2, False, full)
    states = {
        "good": answers(good, losses + 0.7 * tokens * (kinds == 2), tokens),
        "idle": answers(full, losses, tokens),
    }
    gates = {"good": {f"s{i}": 0.5 + kinds[i] for i in range(n)}, "idle": {f"s{i}": 1.0 for i in range(n)}}
    found = Probe([], answers(full, losses, tokens), states, None, gates)
    said = {f"s{i}": "yes" if one else "no" for i, one in enumerate(other)}
    return references, found, said, {"kinds": kinds, "full": full, "other": other, "losses": losses, "tokens": tokens}


def test_a_kind_has_both_accuracies_and_what_each_expert_does_for_it(world: Any) -> None:
    references, found, said, raw = world
    part, pairs = compare_part(task("exact-match"), references, found, said)
    assert [row.kind for row in part.kinds] == sorted(KINDS) and part.total.n == len(pairs) == 71
    far = part.kinds[2]
    of = raw["kinds"] == 2
    assert far.n == of.sum() and far.images == len({i % 24 for i in np.flatnonzero(of)})
    assert far.run == pytest.approx(raw["full"][of].mean()) and far.other == pytest.approx(raw["other"][of].mean())
    assert (
        far.better == (raw["full"] & ~raw["other"])[of].sum() and far.worse == (raw["other"] & ~raw["full"])[of].sum()
    )
    assert far.experts["good"].score.value == pytest.approx(far.run) and far.experts["good"].gate == 2.5
    assert far.experts["good"].loss.value == pytest.approx(0.7) and far.experts["good"].loss.sign == 1
    assert far.loss == pytest.approx(raw["losses"][of].sum() / raw["tokens"][of].sum())
    assert far.difference.sign == 1 and far.through == ("good", "score")
    colour = part.kinds[0]
    assert colour.difference.value == 0 and colour.difference.sign == 0 and colour.through is None
    assert part.total.experts["idle"].score.value == part.total.experts["idle"].loss.value == 0


def test_the_interval_is_of_a_bootstrap_that_draws_whole_images(world: Any) -> None:
    references, found, said, raw = world
    part, _ = compare_part(task("exact-match"), references, found, said)
    change, draw = raw["full"].astype(float) - raw["other"], np.random.default_rng(11)
    images = np.arange(71) % 24
    sums, counts = (np.bincount(images, weights) for weights in (change, np.ones(71)))
    picked = draw.integers(24, size=(20_000, 24))
    low, high = np.quantile(sums[picked].sum(1) / counts[picked].sum(1), [0.025, 0.975])
    assert part.total.difference.low == pytest.approx(low, abs=0.015)
    assert part.total.difference.high == pytest.approx(high, abs=0.015)


def test_of_many_experts_that_do_nothing_one_is_seldom_named() -> None:
    draw, n, named, clear = np.random.default_rng(5), 60, 0, 0
    references = [Reference(f"s{i}", f"i{i // 2}", ("yes",), "?", "") for i in range(n)]
    ones = np.ones(n, dtype=int)
    for _ in range(40):
        full, losses = draw.random(n) < 0.6, draw.gamma(2, 0.3, n)
        states = {
            f"e{k}": answers(np.where(draw.random(n) < 0.1, draw.random(n) < 0.6, full), losses + noise, ones)
            for k, noise in enumerate(draw.normal(0, 0.05, (8, n)))
        }
        part, _ = compare_part(
            task("exact-match"), references, Probe([], answers(full, losses, ones), states, None, {}),
            {f"s{i}": "yes" for i in range(n)},
        )  # fmt: skip
        named += part.total.through is not None
        clear += any(effect.loss.sign > 0 or effect.score.sign > 0 for effect in part.total.experts.values())
    assert clear >= 8, "single intervals leave 0 out often"
    assert named <= 5


def test_the_permutations_of_a_statement_are_drawn_together() -> None:
    # Three statements with six pictures each; the run lost all pictures of one of them.
    names = [f"s{i}" for i in range(18)]
    references = [Reference(s, f"i{i}", ("true",), "?", "", {"identifier": i // 6}) for i, s in enumerate(names)]
    right = np.arange(18) >= 6
    state = Answers(
        {s: "true" if one else "false" for s, one in zip(names, right, strict=True)},
        dict(zip(names, (~right).astype(float).tolist(), strict=True)),
        dict.fromkeys(names, 1),
    )
    found = Probe([], state, {"idle": state}, None, {})
    part, _ = compare_part(task("nlvr"), references, found, dict.fromkeys(names, "true"))
    change = part.total.difference
    assert part.total.images == 18 and change.value == pytest.approx(-1 / 3)
    # The one statement is missing from (2/3)^3 = 30 % of the draws, so nothing is certain.
    assert (change.low, change.high, change.sign) == (-1.0, 0.0, 0)
    alone, _ = compare_part(task("nlvr"), references[:6], found, dict.fromkeys(names, "true"))
    assert alone.total.difference.low is None


def test_one_image_gives_differences_without_an_interval(world: Any) -> None:
    references, found, said, _ = world
    alone = [one for one in references if one.image == "i5"]
    part, _ = compare_part(task("exact-match"), alone, found, said)
    assert part.total.images == 1 and part.total.difference.low is None and part.total.difference.sign == 0
    assert "-" in str(part.total.difference.value) or part.total.difference.value >= 0


def test_against_nothing_is_against_the_model_without_experts(toy: Any, model: Any) -> None:
    found = diagnose(model, toy.samples(), examples=6)
    assert found.bare and found.samples == 12 and found.images == 12 and found.left_out == 0
    assert [part.metric for part in found.parts] == ["exact match", "CIDEr-D"]
    for name in toy.experts:
        model.detach(name)
    said = say(model, toy.samples())
    for name in toy.experts:
        model.attach(name)
    again = diagnose(model, toy.samples(), said, examples=6)
    assert not again.bare and again.parts == found.parts
    plain = json.loads(json.dumps(found.plain()))
    assert plain["parts"][0]["total"]["n"] == 8 and plain["other_is_run_without_experts"] is True
    assert set(plain["parts"][1]["total"]["experts"]) == set(toy.experts)


def test_examples_carry_the_gates_of_their_image(toy: Any, model: Any) -> None:
    samples = toy.samples()
    said = {sample.id: sample.targets[0] for sample in samples}
    found = diagnose(model, samples, said, examples=4)
    assert 0 < len(found.examples) <= 4 and not any(example.better for example in found.examples)
    for example in found.examples:
        maps = model.gates([example.sample.image])
        assert set(example.gates) == set(toy.experts) and example.other == said[example.sample.id]
        for name, grid in example.gates.items():
            assert grid.shape == (1, 5, 5) and np.allclose(grid, maps[name].numpy(), atol=1e-5)
    assert diagnose(model, samples, said, examples=4).examples == found.examples


def test_captions_alone_are_compared_where_they_are_asked_for(toy: Any, model: Any) -> None:
    captions = [sample for sample in toy.samples() if sample.prompt is None]
    with pytest.raises(ConfigError, match="none of 4 samples asks a question"):
        diagnose(model, captions)
    found = diagnose(model, toy.samples(), wanted="captions", examples=0)
    assert [part.task for part in found.parts] == ["captions"] and (found.samples, found.left_out) == (4, 8)


def test_what_cannot_be_diagnosed_is_refused(toy: Any, model: Any) -> None:
    samples = toy.samples()
    with pytest.raises(ConfigError, match="no expert on"):
        diagnose(toy.build([]), samples)
    with pytest.raises(DataError, match="1 have no prediction"):
        diagnose(model, samples, {sample.id: "no" for sample in samples[1:]})
    with pytest.raises(ConfigError, match="no task 'vqaa'; did you mean 'vqa'"):
        diagnose(model, samples, wanted="vqaa")
    with pytest.raises(DataError, match="single answer"):
        diagnose(model, samples, wanted="vqa")


def test_predictions_of_other_data_are_refused_with_what_differs(toy: Any) -> None:
    mine = references_of(toy.samples())
    check_same_data(mine, mine[::-1], "b")
    with pytest.raises(DataError, match="b answered 11 samples and 12 are asked here; 1 ids are in one alone"):
        check_same_data(mine, mine[1:], "b")
    for change, what in (({"prompt": "?"}, "other questions"), ({"kind": "x"}, "other kinds: 1 of 12")):
        with pytest.raises(DataError, match=what):
            check_same_data(mine, [*mine[:-1], Reference(**{**vars(mine[-1]), **change})], "b")
