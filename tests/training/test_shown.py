from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tove_core.contribution import contributions
from tove_core.data.features import FeatureTable
from tove_core.errors import DataError
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.predict import predict
from tove_core.evaluation.probe import probe
from tove_core.fusion.transfer import Transfer
from tove_core.training.examples import Examples
from tove_core.training.run import prepare

pytestmark = pytest.mark.filterwarnings("ignore:this model was never trained")


@pytest.fixture(scope="module")
def model(toy: Any) -> Any:
    built = toy.build()
    prepare(built, toy.samples())
    return built


def asked_often(toy: Any) -> list[Any]:
    """Twelve samples about five images, no two about one next to each other."""
    return [replace(one, image=toy.pictures(5)[i % 5]) for i, one in enumerate(toy.samples())]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass of a fusion takes, from now on."""
    counts: list[int] = []
    plain = Transfer.forward

    def counted(self: Any, tokens: Any, *args: Any, **options: Any) -> Any:
        counts.append(len(tokens))
        return plain(self, tokens, *args, **options)

    monkeypatch.setattr(Transfer, "forward", counted)
    return counts


def test_an_image_is_gathered_and_fused_once_for_all_of_its_questions(
    toy: Any, model: Any, fused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, gathered, plain = Examples.cached(model, asked_often(toy)), [], FeatureTable.gather
    monkeypatch.setattr(FeatureTable, "gather", lambda s, rows, *on: gathered.append(len(rows)) or plain(s, rows, *on))
    said = predict(model, examples, batch_size=12)
    assert fused == gathered == [5]
    assert said == {one.id: predict(model, examples.some([i]))[one.id] for i, one in enumerate(examples.samples)}
    fused.clear()
    loss = mean_loss(model, examples, batch_size=12)
    assert fused == [5]
    assert loss == pytest.approx(mean_loss(model, examples, batch_size=1), rel=1e-5)
    fused.clear()
    contributions(model, examples, batch_size=12)
    probe(model, examples.samples, batch_size=12)
    assert max(fused) == 5


def test_states_share_each_experts_first_linear_and_the_texts(
    toy: Any, model: Any, fused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, experts = Examples.cached(model, asked_often(toy)), len(toy.experts)
    computed, encoded, encode = [], [], model.decoder.encode
    linear = torch.nn.functional.linear
    first = {id(layer.weight) for layer in model.fusion.first.values()}
    counted = lambda x, w, b=None: (computed.append(id(w)) if id(w) in first else None) or linear(x, w, b)  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    monkeypatch.setattr(model.decoder, "encode", lambda *given: encoded.append(len(given[0])) or encode(*given))
    contributions(model, examples, batch_size=12)
    assert len(fused) == 1 + experts
    assert len(computed) == 2 * experts, "for the states, and for the norms, which take the bias along"
    assert encoded == [12, 12], "how long they are, and for all states"
    for seen in (fused, computed, encoded):
        seen.clear()
    probe(model, examples.samples, bare=True, batch_size=12)
    assert len(fused) == 2 + experts and len(computed) == experts
    assert sum(encoded) <= 12 * 3, "how long answers are, and prompts, and for all states"


def test_features_of_samples_are_those_of_their_images_in_order(toy: Any, model: Any) -> None:
    shown = toy.pictures(3)
    samples = [replace(one, image=(shown[i % 3], shown[0], shown[i % 3])) for i, one in enumerate(toy.samples()[:5])]
    examples = Examples(model, samples)
    encoded = model.encode(shown)
    found = examples.features(range(5))
    for name, values in encoded.items():
        for i in range(5):
            wanted = torch.cat([values[i % 3], values[0], values[i % 3]])
            torch.testing.assert_close(found[name][i], wanted)
    assert examples.shown([4, 1]).places == [[0, 1, 0], [0, 1, 0]] and len(examples.shown([4, 1]).features["clip"]) == 2


def test_samples_of_one_image_are_in_one_batch(toy: Any, model: Any) -> None:
    examples = Examples(model, asked_often(toy))
    assert list(examples.batches(3)) == [[0, 5, 10], [1, 6, 11], [2, 7, 3], [8, 4, 9]]


def test_an_image_whose_values_are_not_finite_is_named_by_its_first_sample(toy: Any, model: Any) -> None:
    examples = Examples.cached(model, asked_often(toy))
    examples.table.features["toy-wide"][3] = torch.nan  # type: ignore[union-attr]
    questions = examples.some([i for i, one in enumerate(examples.samples) if one.prompt is not None])
    first = next(one.id for own, one in zip(questions.rows, questions.samples, strict=True) if own == (3,))
    with pytest.raises(DataError, match=rf"'toy-wide' gave values that are not finite for image 4 of 5 \({first}\)"):
        predict(model, questions, batch_size=12)
