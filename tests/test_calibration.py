"""What is fixed before training is measured on a sample of all images, whatever their order."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tove_core.calibration import drawn, measure
from tove_core.config import RunConfig, TrainingConfig
from tove_core.data.sample import Sample
from tove_core.errors import ConfigError
from tove_core.training import fit, run, train
from tove_core.training.examples import Examples
from tove_core.training.run import calibration_images, prepare


def halves(dark: int = 300, light: int = 300) -> list[Sample]:
    """Return samples whose images are nearly black in the first part and ordinary in the second."""
    draw = torch.Generator().manual_seed(2)
    images = [torch.randint(0, 4 if i < dark else 256, (3, 9, 11), generator=draw) for i in range(dark + light)]
    return [Sample(f"s{i}", image.to(torch.uint8), targets=("a",)) for i, image in enumerate(images)]


def share(model: Any, images: list[Any]) -> float:
    """Return the rms of the residual in units of that of v."""
    features = model.encode(images)
    residual = model.fuse(features).tokens - features["clip"]
    return (residual.square().mean() / features["clip"].square().mean()).sqrt().item()


def test_sorted_data_are_calibrated_on_all_their_parts(toy: Any) -> None:
    model, reference, samples = toy.build(decoder=None), toy.build(decoder=None), halves()
    prepare(model, samples)
    images = [sample.image for sample in samples]
    measure(reference.align["toy-fine"], reference.experts["toy-fine"], reference.config.view, images)
    std, wanted = (one.align["toy-fine"].get_buffer("depth-std") for one in (model, reference))
    torch.testing.assert_close(std, wanted, rtol=0.1, atol=0)
    assert share(model, images) == pytest.approx(0.5, rel=0.1)


def test_the_size_of_the_residual_is_measured_on_a_draw_of_what_is_given(toy: Any) -> None:
    model, samples = toy.build(["toy-wide"], decoder=None), halves(dark=90, light=90)
    images = [sample.image for sample in samples]
    model.calibrate(images)
    assert share(model, images) == pytest.approx(0.5, rel=0.15)


def test_the_draw_depends_on_the_data_alone() -> None:
    samples = halves()
    first = calibration_images(samples)
    torch.manual_seed(99)
    assert all(map(torch.equal, first, calibration_images(samples)))
    assert len({bytes(image.numpy()) for image in first}) == len(first) == 256, "without replacement"
    part = sum(int(image.max()) > 3 for image in first)
    assert 96 < part < 160  # five standard deviations of a fair draw, without those it cannot have
    # Where samples share images, images are drawn, not samples.
    shared = [Sample(f"{sample.id}-{n}", sample.image, targets=("a",)) for sample in samples for n in range(3)]
    assert all(map(torch.equal, first, calibration_images(shared)))


def test_no_more_images_than_wanted_are_all_taken_in_order() -> None:
    samples = halves(dark=5, light=251)
    assert all(map(torch.equal, calibration_images(samples), [sample.image for sample in samples]))
    assert drawn(7, 7) == list(range(7)) and sorted(drawn(8, 7)) == list(range(8)) != drawn(8, 7)


def test_others_are_drawn_in_place_of_unreadable_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CALIBRATION_IMAGES", 4)
    samples, good = halves(dark=0, light=5), calibration_images(halves(dark=0, light=5))
    broken = [Sample(f"b{n}", tmp_path / f"{n}.png", targets=("a",)) for n in range(6)]
    found = calibration_images([*broken, *samples])
    assert len(found) == len(good) == 4 and all(any(map(one.equal, [s.image for s in samples])) for one in found)
    with pytest.raises(run.DataError, match=r"none of 6 images can be used to calibrate on: .*cannot be read"):
        calibration_images(broken)


def test_large_images_are_not_all_kept_decoded_and_measure_the_same(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = []
    for number, sample in enumerate(halves(dark=0, light=6)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(path)
        samples.append(Sample(sample.id, path, targets=("a",)))
    whole, frugal = toy.build(decoder=None), toy.build(decoder=None)
    prepare(whole, samples)
    monkeypatch.setattr(run, "CALIBRATION_BYTES", 2 * 3 * 9 * 11)
    found = calibration_images(samples)
    assert [isinstance(one, torch.Tensor) for one in found] == [True] * 2 + [False] * 4
    assert found[2:] == [sample.image for sample in samples[2:]]
    prepare(frugal, samples)
    wanted = whole.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in frugal.state_dict().items())


FEW = TrainingConfig(steps=3, batch_size=6, warmup=1)


def test_a_model_with_experts_is_not_trained_before_it_is_calibrated(toy: Any) -> None:
    model = toy.build()
    before = model.fusion.second.weight.clone()
    with pytest.raises(ConfigError, match=r"the model is not calibrated, .*; call model\.calibrate\(images\) "):
        fit(model, Examples.cached(model, toy.samples()), FEW, quiet=True)
    assert torch.equal(model.fusion.second.weight, before) and not model.trained
    plain = toy.build([])
    fit(plain, Examples.cached(plain, toy.samples()), FEW, quiet=True)
    assert plain.trained, "without experts there is nothing to calibrate"


def test_what_was_trained_uncalibrated_is_not_scaled_but_goes_on(toy: Any, tmp_path: Path) -> None:
    model = toy.build(["toy-wide"])
    model.trained = True  # as by a loop of one's own
    before = model.fusion.second.weight.clone()
    with pytest.raises(ConfigError, match="was trained without being calibrated, and calibrating it now would scale"):
        model.calibrate(toy.pictures(4))
    assert torch.equal(model.fusion.second.weight, before)
    model.save_pretrained(tmp_path / "own")
    fit(model, Examples.cached(model, toy.samples()), FEW, quiet=True)
    # An expert that joins is measured alone, in Python and in a run.
    with pytest.raises(ConfigError, match="give images to measure them on"):
        model.add_expert("toy-fine")
    model.add_expert("toy-fine", images=toy.pictures(5))
    assert model.align["toy-fine"].get_buffer("depth-std").ne(1).all() and not model.calibrated
    growth = {"source": tmp_path / "own", "experts": ["toy-fine"]}
    given = {"data": {"path": toy.data}, "growth": growth, "training": FEW, "output": tmp_path / "grown"}
    grown = train(RunConfig.model_validate(given), quiet=True)
    assert torch.equal(grown.fusion.second.weight, before)
    assert grown.align["toy-fine"].get_buffer("depth-std").ne(1).all()


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_images_are_not_measured_none_at_a_time(toy: Any, size: Any) -> None:
    model = toy.build(decoder=None)
    with pytest.raises(ConfigError, match=f"batch_size is {size}; give a whole number, at least 1"):
        model.calibrate(toy.pictures(2), batch_size=size)
    with pytest.raises(ConfigError, match=f"batch_size is {size}"):
        Examples.cached(model, halves(1, 1), batch_size=size)
    assert not model.calibrated
