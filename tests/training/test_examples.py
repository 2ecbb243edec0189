from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tove_core.config import DataConfig, MergeConfig, RunConfig, TrainingConfig
from tove_core.contribution import contributions
from tove_core.data.parts import ImagePart
from tove_core.data.readers import read
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError, DataError, ImageError
from tove_core.evaluation.evaluate import evaluate
from tove_core.evaluation.loss import mean_loss
from tove_core.fusion.noise import sample_keys
from tove_core.merging import merge
from tove_core.training.engine import Engine, Share
from tove_core.training.examples import Examples
from tove_core.training.loop import fit
from tove_core.training.run import prepare, train
from tove_core.training.step import TransferStep

HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))


def halved(samples: list[Sample]) -> list[Sample]:
    """Show each image as its two halves and itself."""
    return [replace(s, image=(*(ImagePart(s.image, box) for box in HALVES), s.image)) for s in samples]


@pytest.fixture(scope="module")
def model(toy):
    built = toy.build()
    prepare(built, toy.samples())
    return built


# --- several images per sample ----------------------------------------------------------------------------------------


def test_tokens_of_a_samples_images_follow_each_other(toy, model):
    samples = halved(toy.samples())
    examples = Examples(model, samples)
    found = examples.features([4, 2])
    for sample, index in ((0, 4), (1, 2)):
        for place, image in enumerate(samples[index].load()):
            alone = model.encode(image)
            for name, feature in found.items():
                n = alone[name].shape[1]
                torch.testing.assert_close(feature[sample, place * n : (place + 1) * n], alone[name][0])
    assert found["clip"].shape == (2, 3 * 25, 32)


def test_features_computed_once_are_those_computed_when_asked(toy, model):
    samples = halved(toy.samples())
    live, cached = Examples(model, samples), Examples.cached(model, samples, batch_size=5)
    assert len(cached.images) == 36
    for name, feature in cached.features([7, 0, 3]).items():
        torch.testing.assert_close(feature, live.features([7, 0, 3])[name], atol=2e-3, rtol=2e-3)


def test_the_loss_of_several_images_is_that_of_their_tokens_in_a_row_and_reaches_every_part(toy, model):
    samples = halved(toy.samples())
    examples, step = Examples(model, samples), TransferStep(model.fusion, model.decoder)
    keys = sample_keys(0, [0, 0], [1, 2])
    output = step(examples.features([1, 2]), examples.prompts([1, 2]), examples.targets([1, 2], [0, 0]), keys=keys)
    tokens = torch.cat([model.tokens(list(samples[i].load())).flatten(0, 1)[None] for i in (1, 2)])
    wanted = model.decoder(tokens, examples.prompts([1, 2]), [samples[i].targets[0] for i in (1, 2)])
    torch.testing.assert_close(output.loss, wanted.loss_sum)
    output.loss.backward()
    assert all(p.grad is not None for p in model.fusion.parameters() if p.requires_grad)
    model.zero_grad(set_to_none=True)


def test_marked_images_stand_at_their_marks_in_training_and_answers(toy, model):
    marked = [replace(s, prompt=f"<image>, <image>{s.prompt or 'say'} <image>") for s in halved(toy.samples())]
    examples = Examples(model, marked)
    prompts, targets = examples.prompts([1, 2]), examples.targets([1, 2], [0, 0])
    images = [list(marked[i].load()) for i in (1, 2)]
    tokens = torch.stack([model.tokens(shown).flatten(0, 1) for shown in images])
    wanted = model.decoder(tokens, prompts, targets)
    found = model.decoder(model.fuse(examples.features([1, 2])).tokens, prompts, targets)
    torch.testing.assert_close(found.loss_sum, wanted.loss_sum)
    bare = model.decoder(tokens, [prompt.replace("<image>", "") for prompt in prompts], targets)
    assert not torch.isclose(bare.loss_sum, wanted.loss_sum, rtol=1e-5)
    with pytest.warns(UserWarning, match="never trained"):
        assert model.answer(images, prompts) == model.decoder.generate(tokens, prompts)
    assert model.answer(images[:1], prompts[0]) == model.decoder.generate(tokens[:1], prompts[:1])


@pytest.mark.filterwarnings("ignore:this model was never trained")
def test_questions_about_different_numbers_of_images_are_answered_as_alone(toy, model):
    one, two, three = toy.pictures(3)
    asked = [[one, two], three, [two, three, one], [three, one]]
    questions = ["is it black?", "what colour is it?", "what?", "what colour?"]
    wanted = [model.answer([images], question)[0] for images, question in zip(asked, questions, strict=True)]
    assert model.answer(asked, questions) == wanted


def test_marks_that_are_not_as_many_as_the_images_are_refused(toy, model, tmp_path):
    samples = [replace(s, prompt="<image> or <image>?") for s in halved(toy.samples())]
    with pytest.raises(DataError, match=r"sample 's1': prompt .* holds <image> 2 times for 3 images"):
        Examples(model, samples).prompts([1])
    with pytest.raises(DataError, match="2 times for 1 image; mark"):
        model.answer(toy.pictures(1), "<image><image>?")
    with pytest.raises(ConfigError, match=r"the question 'what\?' is about no image"):
        model.answer([toy.pictures(2), []], "what?")
    record = {"image": [str(path) for path in toy.pictures(2)], "question": "<image>?", "answer": "a"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"sample 'line 1' of .*a\.jsonl: prompt .* holds <image> 1 times for 2"):
        read(DataConfig(path=tmp_path / "a.jsonl"))


def test_the_mark_of_a_tiled_image_is_the_place_of_all_its_tiles(toy, model, tmp_path):
    records = [{"image": str(p), "question": "one <image> there", "answer": "a"} for p in toy.pictures(2)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    samples = read(DataConfig(path=tmp_path / "a.jsonl", tiles=2))
    examples = Examples(model, samples)
    text = model.decoder.encode(examples.prompts([0]))[0]
    assert text.places == 1 and model.fuse(examples.features([0])).tokens.shape[1] == 5 * 25


def test_the_order_of_images_matters(toy, model):
    samples = halved(toy.samples())
    turned = [replace(s, image=s.image[::-1]) for s in samples]
    assert mean_loss(model, Examples(model, samples)) != mean_loss(model, Examples(model, turned))


def mixed(samples: list[Sample]) -> list[Sample]:
    """Show every other sample three images, the others one."""
    return [
        many if number % 2 else one for number, (one, many) in enumerate(zip(samples, halved(samples), strict=True))
    ]


def test_batches_hold_samples_of_as_many_images(toy, model):
    examples = Examples(model, mixed(toy.samples()))
    assert examples.uneven and not Examples(model, halved(toy.samples())).uneven
    assert list(examples.batches(4)) == [[0, 2, 4, 6], [8, 10], [1, 3], [5, 7, 9, 11]]
    assert list(examples.batches(6, lambda i: i < 6)) == [[6, 8, 10], [7, 9, 11], [0, 2, 4], [1, 3, 5]]
    assert examples.alike([7, 2, 3, 2]) == [[1, 3], [0, 2]]
    with pytest.raises(DataError, match="different numbers of images"):
        examples.features([0, 1])  # four images: they would go into two rows


def test_losses_and_answers_of_mixed_samples_are_those_of_each_sort_alone(toy, model):
    samples = mixed(toy.samples())
    examples = Examples.cached(model, samples)
    sorts = [Examples.cached(model, samples[first::2]) for first in (0, 1)]
    said = [evaluate(model, one).predictions for one in sorts]
    assert evaluate(model, examples).predictions == said[0] | said[1]
    tokens = [[len(text.target) for text in model.decoder.encode(one.prompts(range(6)), _first(one))] for one in sorts]
    weighted = sum(mean_loss(model, one) * sum(own) for one, own in zip(sorts, tokens, strict=True))
    assert mean_loss(model, examples) == pytest.approx(weighted / sum(map(sum, tokens)), rel=1e-5)


def _first(examples: Examples) -> list[str]:
    return [sample.targets[0] for sample in examples.samples]


def test_contributions_of_mixed_samples_are_means_over_all_tokens(toy):
    model = toy.build()
    samples = mixed(toy.samples())
    prepare(model, samples)
    found, *apart = (
        {one.expert: one for one in contributions(model, Examples.cached(model, some))}
        for some in (samples, samples[::2], samples[1::2])
    )
    for name, one in found.items():  # a quarter of the tokens are of samples of one image
        assert one.mass == pytest.approx((apart[0][name].mass + 3 * apart[1][name].mass) / 4, rel=1e-4)
        assert one.norm == pytest.approx((apart[0][name].norm + 3 * apart[1][name].norm) / 4, rel=1e-4)


def test_a_step_on_mixed_samples_has_the_gradient_of_its_samples_one_by_one(toy):
    """What the parts of a step are divided by is checked against samples that are computed alone."""
    options = {"gate": {"noise": 0.0, "expert_dropout": 0.0, "balance": 0.0}}
    model = toy.build(fusion=options)
    samples = mixed(toy.samples())
    prepare(model, samples)
    examples = Examples.cached(model, samples)
    engine = Engine(model, model.decoder, TrainingConfig(steps=1, batch_size=12))
    engine.module.eval()
    indices = list(range(12))
    keys = sample_keys(0, [0] * 12, indices)
    texts = model.decoder.encode(examples.prompts(indices), examples.targets(indices, [0] * 12))
    share = Share(indices, keys, texts)
    engine.backward(examples, share, 0, tokens=share.tokens)
    found = {name: p.grad.clone() for name, p in engine.inner.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    total = sum(len(text.target) for text in texts)
    for i in indices:
        engine.inner(examples.features([i]), texts[i : i + 1], keys=keys[i : i + 1]).loss.div(total).backward()
    wanted = {name: p.grad for name, p in engine.inner.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=1e-4, msg=name)


def test_mixed_samples_go_through_training_and_merging(toy):
    model = toy.build(("toy-fine", "toy-wide"))
    samples = mixed(toy.samples())
    prepare(model, samples)
    for examples in (Examples.cached(model, samples), Examples(model, samples)):
        before = mean_loss(model, examples)
        fit(model, examples, TrainingConfig(steps=12, batch_size=4, warmup=1, learning_rate=3e-3), quiet=True)
        assert mean_loss(model, examples) < before
    merged = merge(model, examples, MergeConfig(steps=2, batch_size=5), quiet=True)
    assert evaluate(merged, Examples(merged, samples)).predictions.keys() == {s.id for s in samples}


def test_three_images_go_through_training_evaluation_and_merging(toy):
    model = toy.build(("toy-fine", "toy-wide"))
    samples = halved(toy.samples())
    prepare(model, samples)
    examples = Examples.cached(model, samples)
    before = mean_loss(model, examples)
    fit(model, examples, TrainingConfig(steps=12, batch_size=4, warmup=1, learning_rate=3e-3), quiet=True)
    assert mean_loss(model, examples) < before
    assert set(evaluate(model, examples).predictions) == {s.id for s in samples}
    merged = merge(model, examples, MergeConfig(steps=1, batch_size=3), quiet=True)
    assert evaluate(merged, Examples(merged, samples)).predictions.keys() == {s.id for s in samples}


def test_tiles_of_the_configuration_reach_the_decoder(toy, tmp_path):
    config = RunConfig.model_validate(
        {
            "model": {"clip": {"name": toy.clip}, "experts": ["toy-fine"], "decoder": {"name": toy.decoder}},
            "data": {"path": toy.data, "tiles": 2},
            "training": {"steps": 1, "batch_size": 2, "cache": False},
            "output": tmp_path / "run",
        }
    )
    trained = train(config, quiet=True)
    features = Examples(trained, read(config.data)).features([0])
    assert features["clip"].shape == (1, 5 * 25, 32)


# --- unreadable images ------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(toy, tmp_path):
    """The toy data, where images 2 and 3 hold no picture."""
    for path in toy.data.parent.iterdir():
        (tmp_path / path.name).write_bytes(b"x" if path.name in ("2.png", "3.png") else path.read_bytes())
    return read(DataConfig(path=tmp_path / "toy.jsonl"))


@pytest.mark.filterwarnings("ignore:.*images so far are left out")
def test_samples_of_unreadable_images_are_left_out_of_a_table(damaged, model):
    with pytest.raises(DataError, match="1 of 12 images cannot be used"):
        Examples.cached(model, damaged)
    examples = Examples.cached(model, damaged, max_broken=0.2)
    assert [s.id for s in examples.samples] == [s.id for s in damaged if s.id not in ("s2", "s3")]
    whole = Examples(model, damaged)
    wanted = whole.features([4])["clip"]
    torch.testing.assert_close(examples.features([2])["clip"], wanted, atol=2e-3, rtol=2e-3)
    assert set(evaluate(model, examples).predictions) == {s.id for s in examples.samples}


@pytest.mark.filterwarnings("ignore:.*images so far are left out")
def test_the_next_usable_sample_stands_in_whatever_was_seen_before(damaged, model):
    fresh, experienced = (Examples(model, damaged, max_broken=0.2) for _ in range(2))
    assert experienced.usable([3, 0]) == [4, 0]
    for examples in (fresh, experienced):
        assert examples.usable([1, 2, 11, 2]) == [1, 4, 11, 4]
        assert examples.features(examples.usable([2]))["clip"].shape == (1, 25, 32)
    with pytest.raises(DataError, match=r"2 of 12 images cannot be used"):
        Examples(model, damaged, max_broken=0.1).usable([2])


@pytest.mark.filterwarnings("ignore:.*images so far are left out")
def test_training_without_a_table_goes_round_unreadable_images(damaged, toy):
    model = toy.build(("toy-fine",))
    prepare(model, damaged)
    examples = Examples(model, damaged, max_broken=0.2)
    fit(model, examples, TrainingConfig(steps=3, batch_size=6), quiet=True)
    assert sorted(examples.broken.reasons) == [2, 3]


@pytest.mark.filterwarnings("ignore:.*images so far are left out")
def test_unreadable_images_are_found_at_the_same_step_however_many_threads_read_ahead(damaged, model):
    steps = [[1, 0], [5, 2], [3, 2], [11, 3]]
    found = []
    for workers in (0, 1, 3):
        examples = Examples(model, damaged, max_broken=0.2, workers=workers)
        seen = []
        for step, coming in zip(steps, [*steps[1:], []], strict=True):
            chosen = examples.usable(step, coming)
            features = examples.features(chosen)
            seen.append((chosen, sorted(examples.broken.reasons), features["toy-fine"]))
        examples.close()
        found.append(seen)
    assert [(chosen, broken) for chosen, broken, _ in found[0]] == [
        ([1, 0], []),
        ([5, 4], [2, 3]),
        ([4, 4], [2, 3]),
        ([11, 4], [2, 3]),
    ]
    for other in found[1:]:
        for (chosen, broken, features), (mine, own, wanted) in zip(other, found[0], strict=True):
            assert chosen == mine and broken == own and torch.equal(features, wanted)
    strict = Examples(model, damaged, max_broken=0.1, workers=2)
    assert strict.usable([1], [2]) == [1]  # read ahead, and not counted before its step
    with pytest.raises(DataError, match=r"2 of 12 images cannot be used"):
        strict.usable([2])
    strict.close()


@pytest.mark.filterwarnings("ignore:.*images so far are left out")
def test_live_training_is_the_same_to_the_last_bit_with_and_without_threads_and_when_resumed(damaged, toy, tmp_path):
    ends = {}
    for name, workers, stop in (("none", 0, None), ("two", 2, None), ("resumed", 2, 4)):
        config = TrainingConfig(steps=6, batch_size=5, accumulate=2, save_every=2, warmup=1, learning_rate=1e-2)
        given = {"seed": 5, "output": tmp_path / name, "quiet": True}
        for turn in range(2 if stop else 1):
            model = toy.build(("toy-fine", "toy-wide"), decoder={"train": "all"})
            prepare(model, damaged)
            examples = Examples(model, damaged, max_broken=0.2, workers=workers)

            def halt(done, stop=stop, turn=turn):
                if done == stop and not turn:
                    raise InterruptedError

            (tmp_path / name).mkdir(exist_ok=True)
            try:
                fit(model, examples, config, resume=bool(turn), after_step=halt, **given)
            except InterruptedError:
                assert examples.reader is None  # closed by the way out
        ends[name] = {key: p.detach() for key, p in model.named_parameters() if p.requires_grad}
        assert examples.reader is None
    for name in ("two", "resumed"):
        assert [key for key, value in ends["none"].items() if not torch.equal(value, ends[name][key])] == []


@pytest.mark.filterwarnings("ignore:.*images so far are left out")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_table_does_not_depend_on_the_threads_that_read_for_it(damaged, model, workers):
    examples = Examples.cached(model, damaged, batch_size=5, max_broken=0.2, workers=workers)
    wanted = Examples.cached(model, damaged, batch_size=5, max_broken=0.2, workers=1)
    for name, feature in examples.features(range(10)).items():
        assert torch.equal(feature, wanted.features(range(10))[name])


def test_what_was_read_for_other_experts_is_not_used(toy):
    model = toy.build(("toy-fine", "toy-wide"))
    prepare(model, toy.samples())
    examples = Examples(model, toy.samples(), workers=1)
    model.detach("toy-wide")
    chosen = examples.usable([1, 2])
    model.attach("toy-wide")
    with pytest.raises(ImageError, match="prepared for other experts"):
        examples.features(chosen)
    examples.close()
    assert set(examples.features(chosen)) == {"clip", "toy-fine", "toy-wide"}


def test_some_of_the_samples_keep_their_features(toy, model):
    examples = Examples.cached(model, toy.samples())
    part = examples.some([7, 2, 7])
    assert [s.id for s in part.samples] == ["s7", "s2", "s7"] and len(examples) == 12
    for name, feature in part.features([1, 0]).items():
        assert torch.equal(feature, examples.features([2, 7])[name])


def test_a_mixture_is_drawn_by_its_weights(toy, tmp_path):
    path = str(toy.data)
    parts = [{"path": path, "name": "often", "weight": 3, "limit": 2}, {"path": path, "name": "once", "limit": 2}]
    config = RunConfig.model_validate(
        {
            "model": {"clip": {"name": toy.clip}, "experts": ["toy-fine"], "decoder": {"name": toy.decoder}},
            "data": {"mixture": parts},
            "training": {"steps": 1, "batch_size": 8},
            "output": tmp_path / "run",
        }
    )
    trained = train(config, quiet=True)
    samples = read(config.data)
    assert [s.weight for s in samples] == [3, 3, 1, 1]
    assert trained.trained and json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[0])["step"] == 1
