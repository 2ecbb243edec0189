from __future__ import annotations

from typing import Any

import pytest
import torch

from tove_core.data.sample import Sample
from tove_core.errors import ConfigError, DataError
from tove_core.evaluation.evaluate import evaluate, majority_answers, score
from tove_core.evaluation.loss import mean_loss
from tove_core.evaluation.predict import predict
from tove_core.training.examples import Examples

PIXELS = torch.zeros(3, 2, 2, dtype=torch.uint8)


def question(number: int, kind: str, *answers: str) -> Sample:
    return Sample(f"q{number}", PIXELS, "what?", answers, kind)


def caption(number: int, *texts: str) -> Sample:
    return Sample(f"c{number}", PIXELS, None, texts)


QUESTIONS = [
    question(0, "colour", "red"),
    question(1, "colour", "red"),
    question(2, "colour", "blue"),
    question(3, "dark", "yes"),
    question(4, "dark", "no", "not at all"),
]


def test_accuracy_is_counted_per_kind_with_the_majority_beside_it() -> None:
    said = {"q0": "red", "q1": "blue", "q2": " Blue ", "q3": "no", "q4": "not at all"}
    found = score(QUESTIONS, said)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.by_kind == {"colour": (pytest.approx(2 / 3), 3), "dark": (0.5, 2)}
    assert found.majority_by_kind == {"colour": pytest.approx(2 / 3), "dark": 0.5}
    assert found.majority == pytest.approx((2 + 1) / 5)
    assert found.captions == {} and found.predictions == said
    assert [line.split()[0] for line in str(found).splitlines()] == ["kind", "colour", "dark", "all", "majority"]


def test_the_majority_answer_is_scored_as_any_other_answer_would_be() -> None:
    samples = [
        question(0, "k", "Yes"),
        question(1, "k", "yes "),
        question(2, "k", "sure", "yes"),
        question(3, "k", "no"),
    ]
    always = score(samples, {sample.id: "yes" for sample in samples})
    assert majority_answers(samples) == {"k": always.accuracy} == {"k": 0.75}


def test_captions_and_questions_are_scored_apart() -> None:
    samples = [*QUESTIONS, caption(0, "a red square", "a square"), caption(1, "two green circles on a table")]
    said = {sample.id: sample.targets[0] for sample in samples}
    found = score(samples, said)
    assert found.accuracy == 1 and sum(n for _, n in found.by_kind.values()) == 5
    assert len(found.captions) == 3 and all(value > 0.9 for value in found.captions.values())
    worse = score(samples, said | {"c1": "nothing of that"})
    assert all(worse.captions[name] < value for name, value in found.captions.items()) and worse.accuracy == 1
    assert score(samples[-2:], {k: v for k, v in said.items() if k.startswith("c")}).accuracy is None


@pytest.mark.parametrize("samples", [QUESTIONS, [caption(0, "a b c d"), caption(1, "e f g h")]])
def test_missing_and_stray_predictions_are_refused(samples: list[Sample]) -> None:
    said = {sample.id: "x" for sample in samples}
    with pytest.raises(DataError, match=samples[1].id):
        score(samples, {key: text for key, text in said.items() if key != samples[1].id})
    with pytest.raises(DataError, match="stray"):
        score(samples, said | {"stray": "x"})


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_predictions_come_in_the_order_of_the_data_and_do_not_depend_on_batches(toy: Any) -> None:
    model = toy.build()
    examples = toy.examples(model)
    said = predict(model, examples, batch_size=5)
    assert list(said) == [sample.id for sample in toy.samples()]
    assert said == predict(model, examples, batch_size=64)
    found = evaluate(model, examples, max_new_tokens=3)
    assert set(found.by_kind) == {"colour", "dark"} and found.by_kind["dark"][1] == 4 and found.captions


def test_a_model_with_the_right_answers_scores_one(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy.build()
    examples = toy.examples(model)
    right = {sample.id: sample.targets[0] for sample in examples.samples}
    order = sorted(examples.samples, key=lambda sample: sample.prompt is None)
    answers = iter([right[sample.id] for sample in order])
    monkeypatch.setattr(model, "generate", lambda tokens, prompts, **_: [next(answers) for _ in prompts])
    found = evaluate(model, examples, batch_size=5)
    assert found.accuracy == 1 and found.majority < 1


def test_the_mean_loss_is_per_token_of_the_first_target_whatever_the_batch(toy: Any) -> None:
    model = toy.build()
    examples = toy.examples(model)
    total, count = 0.0, 0
    with torch.no_grad():
        for index, sample in enumerate(examples.samples):
            tokens = model.fuse(examples.features([index])).tokens
            output = model.decoder(tokens, examples.prompts([index]), [sample.targets[0]])
            total, count = total + output.loss_sum.item(), count + int(output.token_count)
    assert mean_loss(model, examples, batch_size=5) == pytest.approx(total / count, rel=1e-5)
    assert mean_loss(model, examples) == pytest.approx(total / count, rel=1e-5)
    silent = toy.build(decoder=None)
    with pytest.raises(ConfigError, match="needs a decoder"):
        mean_loss(silent, Examples(silent, toy.samples()))
