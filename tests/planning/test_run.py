from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tove_core
from tove_core.config import RunConfig
from tove_core.data.readers import read
from tove_core.errors import ConfigError
from tove_core.planning import speed
from tove_core.planning.plan import plan_model
from tove_core.planning.run import plan_run
from tove_core.planning.run_figures import RunPlan
from tove_core.planning.run_table import render_run
from tove_core.planning.speed import measured
from tove_core.run_folder import states
from tove_core.training import fit
from tove_core.training.cached import build_cache, cache_builder
from tove_core.training.examples import Examples
from tove_core.training.run import prepare, train


def even_data(folder: Path, images: int = 1) -> Path:
    """Write 14 samples whose texts are all as long, about 7 images, or as many each as wanted."""
    folder.mkdir()
    for number in range(7):
        Image.new("RGB", (40, 30), (30 * number, 90, 200)).save(folder / f"{number}.png")
    lines = []
    for number in range(14):
        own = [f"{(number + k) % 7}.png" for k in range(images)]
        seen = own[0] if images == 1 else own
        lines.append({"id": f"s{number}", "image": seen, "question": "is it black?", "answer": "black"})
    (folder / "even.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder / "even.jsonl"


def configured(toy: Any, data: Path, decoder: Any = None, **training: Any) -> RunConfig:
    gate = {"kind": "gate", "gate": {"hidden": 6, "balance_warmup": 1}}
    model = {"clip": {"name": toy.clip}, "experts": list(toy.experts), "fusion": gate}
    model["decoder"] = {"name": toy.decoder, "max_new_tokens": 5} | (decoder or {})
    steps = {"steps": 3, "batch_size": 4, "log_every": 1} | training
    return RunConfig.model_validate({"model": model, "data": {"path": str(data)}, "training": steps})


def planned(config: RunConfig, **given: Any) -> RunPlan:
    made = plan_model(config.model, batch=config.training.batch_size, training=True)
    return plan_run(config, made, **given)[0]


def counted_by_training(config: RunConfig) -> tuple[int, int]:
    """Return the operations that features and training steps really make, as torch counts them."""
    # Fused inference kernels of attention are not counted by torch.
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        model = tove_core.build(
            config.model.experts, clip=config.model.clip, decoder=config.model.decoder, fusion=config.model.fusion
        )
        samples = read(config.data)
        prepare(model, samples)
        with FlopCounterMode(display=False) as features:
            examples = Examples.cached(model, samples)
        with FlopCounterMode(display=False) as steps:
            fit(model, examples, config.training, quiet=True)
    torch.backends.mha.set_fastpath_enabled(True)
    return features.get_total_flops(), steps.get_total_flops()


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("decoder", [{"train": "none"}, {"train": "all"}])
def test_operations_of_a_run_are_those_that_torch_counts_while_it_trains(
    toy: Any, tmp_path: Path, decoder: Any, images: int
) -> None:
    config = configured(toy, even_data(tmp_path / "data", images), decoder)
    features, steps = counted_by_training(config)
    found = planned(config)
    assert found.data.images == 7 and found.tokens == 25 * images and found.data.per_sample == images
    assert found.training.value == steps and found.frozen.value == features
    assert found.flops.value == features + steps


def test_parts_of_a_step_cost_the_gates_once_more_and_checkpointing_the_layers(toy: Any, tmp_path: Path) -> None:
    data = even_data(tmp_path / "data")
    plain = planned(configured(toy, data, {"train": "all"})).training.value
    parts = configured(toy, data, {"train": "all"}, accumulate=2)
    assert planned(parts).training.value == counted_by_training(parts)[1] > plain
    again = configured(toy, data, {"train": "all"}, checkpointing=True)
    found, real = planned(again).training.value, counted_by_training(again)[1]
    # torch stops computing a layer again as soon as it has what it needs, which spares the layer's last product.
    assert plain < real <= found < 1.1 * real


def test_features_at_every_step_count_by_sample(toy: Any, tmp_path: Path) -> None:
    data = even_data(tmp_path / "data", 2)
    once, ever = planned(configured(toy, data)), planned(configured(toy, data, cache=False))
    assert ever.repeated and ever.frozen.value * 7 == once.frozen.value * 3 * 4 * 2
    assert ever.memory is None and once.memory.value == 7 * 25 * 2 * (32 + 12 + 33 + 7 + 0)


def test_disk_figures_are_what_is_written(toy: Any, tmp_path: Path) -> None:
    data, cache, out = even_data(tmp_path / "data"), tmp_path / "cache", tmp_path / "run"
    config = configured(toy, data, {"train": "all"}, cache=str(cache), save_every=1, steps=4, average=0.9)
    config = config.model_copy(update={"output": out})
    disk = planned(config).disk
    model = toy.build()
    prepare(model, read(config.data))
    build_cache(model, cache_builder(model, read(config.data), cache))
    written = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert 0.99 * disk.features.value <= written <= disk.features.value + 16_384
    train(config, quiet=True)
    one = (states(out / "state")[0] / "state.safetensors").stat().st_size
    assert len(states(out / "state")) == 2 and 0 <= one - disk.states.value / 3 < 65_536
    saved = (out / "checkpoint" / "model.safetensors").stat().st_size
    assert 0 <= saved - disk.checkpoint.value < 16_384
    assert disk.together.value == disk.features.value + disk.states.value + disk.checkpoint.value


def test_without_data_features_are_told_for_a_thousand_images_and_sums_leave_them_out(toy: Any, tmp_path: Path) -> None:
    config = configured(toy, tmp_path / "gone.jsonl", cache=str(tmp_path / "cache"))
    found = planned(config)
    assert found.per_thousand and found.data.images is None and "is not there" in found.data.counted
    assert found.data.text == 32 + 5 and found.flops.how.startswith("at least")
    assert found.flops.value == found.training.value
    told = planned(config, images=3000)
    assert told.frozen.value == 3 * found.frozen.value and not told.per_thousand
    assert told.disk.features.value == 3 * found.disk.features.value
    with pytest.raises(ConfigError, match="--images 0"):
        planned(config, images=0)


@pytest.mark.parametrize(
    ("data", "images"),
    [
        ({"reader": "jsonl"}, 1),
        ({"reader": "jsonl", "tiles": 3}, 10),
        ({"reader": "nlvr"}, 3),
        ({"reader": "nlvr", "options": {"images": "strip"}}, 1),
        ({"reader": "nlvr", "tiles": 2}, 15),
        ({"mixture": [{"reader": "jsonl"}, {"reader": "jsonl", "tiles": 2}, {"reader": "vsr"}]}, 5),
        ({"mixture": [{"reader": "jsonl"}, {"reader": "nlvr"}]}, 3),
    ],
)
def test_without_data_a_sample_is_taken_to_have_the_images_that_formats_and_tiles_give(
    toy: Any, tmp_path: Path, data: Any, images: int
) -> None:
    parts = data.get("mixture", [])
    gone = {"path": str(tmp_path / "gone")}
    data = {"mixture": [gone | {"name": f"p{n}"} | part for n, part in enumerate(parts)]} if parts else gone | data
    made = configured(toy, tmp_path / "gone")
    config = RunConfig.model_validate(made.model_dump() | {"data": data})
    found = planned(config)
    assert found.data.per_sample == images and found.data.taken and found.tokens == 25 * images
    seen = f"taken to be {images} image{'s' if images > 1 else ''} a sample, {25 * images} tokens"
    assert seen in render_run(found)[0]


def test_the_images_of_data_that_are_here_are_counted_whatever_their_format_may_give(toy: Any, tmp_path: Path) -> None:
    found = planned(configured(toy, even_data(tmp_path / "data", 2)))
    assert found.data.per_sample == 2 and not found.data.taken and "taken" not in render_run(found)[0]


def test_options_that_do_not_exist_are_refused_without_data_too(toy: Any, tmp_path: Path) -> None:
    data = {"reader": "nlvr", "path": str(tmp_path / "gone"), "options": {"picture": "strip"}}
    config = RunConfig.model_validate(configured(toy, tmp_path / "gone").model_dump() | {"data": data})
    with pytest.raises(ConfigError, match=r"data\.options of reader 'nlvr'"):
        planned(config)


def test_unknown_parts_leave_a_sum_of_the_known_ones(toy: Any, tmp_path: Path) -> None:
    config = configured(toy, even_data(tmp_path / "data"))
    lost = config.model.model_copy(update={"clip": config.model.clip.model_copy(update={"name": "hf-hub:some/clip"})})
    found = planned(config.model_copy(update={"model": lost}))
    assert found.training.value is None and found.frozen.how.startswith("at least") and found.frozen.value > 0
    assert found.flops.how.startswith("at least") and found.flops.value == found.frozen.value
    hours = speed.given(found, 1.0)
    assert hours.training.value is None and hours.together.how.startswith("at least")


def test_hours_at_a_given_speed_are_operations_by_speed(toy: Any, tmp_path: Path) -> None:
    found = planned(configured(toy, even_data(tmp_path / "data"), steps=10**9))
    hours = speed.given(found, 0.25)
    assert hours.training.value == pytest.approx(found.training.value / 0.25e12, abs=1)
    for bad in (0.0, -3.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="--tflops"):
            speed.given(found, bad)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SECONDS", 0.01)


def test_measured_hours_follow_from_what_each_part_took(toy: Any, tmp_path: Path, quick: None) -> None:
    config = configured(toy, even_data(tmp_path / "data"), {"train": "all"}, steps=100_000)
    made = plan_model(config.model, batch=4, training=True)
    run, step = plan_run(config, made, images=10**7)
    hours = speed.measured(config, made, run, step)
    timed = {one.part: one for one in hours.timings}
    assert set(timed) == {"clip", *toy.experts, speed.STEP} and not hours.untimed
    last = timed[speed.STEP]
    assert 1 <= last.samples <= 4 and last.flops == last.samples * run.training.value // (100_000 * 4)
    assert hours.training.value == pytest.approx(run.training.value / last.flops * last.seconds, abs=1)
    images = 10**7 * sum(one.seconds / one.samples for name, one in timed.items() if name != speed.STEP)
    assert hours.frozen.value == pytest.approx(images, abs=1)
    assert timed["clip"].tflops == pytest.approx(timed["clip"].flops / timed["clip"].seconds / 1e12)
    assert "random weights" in hours.how and "fp32" in hours.how


def test_a_part_that_cannot_be_timed_gets_the_speed_of_the_others(
    toy: Any, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(toy, even_data(tmp_path / "data"), steps=10)
    made = plan_model(config.model, batch=4, training=True)
    run, step = plan_run(config, made)

    def fails(*_: Any) -> Any:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(speed, "_step", fails)
    run = replace(run, training=replace(run.training, value=10**14))
    hours = speed.measured(config, made, run, step)
    assert hours.training.value > 0 and "training step" in hours.untimed[0] and "no such layer" in hours.untimed[0]
    monkeypatch.setattr(speed, "_free", lambda _: 0)
    with pytest.raises(ConfigError, match=r"no part could be timed.*more memory than is free"):
        speed.measured(config, made, run, step)
    with pytest.raises(ConfigError, match="--measure: device 'nowhere' cannot be used here"):
        speed.measured(config, made, run, step, "nowhere")


def test_an_expert_whose_output_is_a_parameter_is_counted_to_the_end() -> None:
    made = tove_core.plan(["world-blank"], clip="ViT-B-32/random", decoder=None)
    blank = made.parts[1]
    assert blank.flops.value == 0 and blank.activations.value == 0 and "on meta" in blank.activations.how
    assert not made.memory[None].how.startswith("at least")
    assert torch.is_grad_enabled()


def test_a_step_is_timed_only_where_it_fits_as_it_is_built_in_no_few_bits(toy: Any, tmp_path: Path) -> None:
    config = configured(toy, even_data(tmp_path / "data"), {"quantize": "4bit"})
    made = plan_model(config.model, batch=4, training=True)
    plan, step = plan_run(config, made)
    (timed,) = (one for one in speed._subjects(config, made, plan, step, torch.device("cpu")) if one.name == speed.STEP)
    held = sum(t.numel() * t.element_size() for t in [*step.decoder.parameters(), *step.decoder.buffers()])
    assert timed.part.weights.value == held > next(p.weights.value for p in made.parts if p.part == "decoder")


@pytest.mark.parametrize(("device", "words"), [("meta", "have no values"), ("cuda:77", "cannot be used here")])
def test_hours_come_from_no_device_that_computes_nothing(toy: Any, tmp_path: Path, device: str, words: str) -> None:
    config = configured(toy, even_data(tmp_path / "data"))
    made = plan_model(config.model, batch=4, training=True)
    plan, step = plan_run(config, made)
    with pytest.raises(ConfigError, match=f"--measure: device '{device}'.*{words}"):
        measured(config, made, plan, step, device)
