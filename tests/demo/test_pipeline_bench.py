from __future__ import annotations

from typing import Any

import pytest
import torch

from tove_core.data.sample import Sample
from tove_core.demo.pipeline_bench import PARTS, Bench, Step, Times, _as_files, report_times
from tove_core.demo.pipeline_memory import measure_memory, measure_peaks, report_memory
from tove_core.hub.images import read_image
from tove_core.training.run import prepare


@pytest.fixture(scope="module")
def bench(toy: Any) -> Bench:
    model = toy.build(("toy-fine", "toy-wide"), decoder={"train": "all"})
    prepare(model, toy.samples())
    return Bench(model, toy.samples(), batch=3, steps=2)


def test_the_parts_and_live_steps_take_turns_and_are_compared_by_round(bench: Bench) -> None:
    times = bench.measure(2, (0, 1))
    assert list(times.parts) == list(PARTS) and {len(v) for v in (*times.parts.values(), *times.live.values())} == {2}
    assert all(one.waiting >= 0 and one.wall > 0 and one.cpu > 0 for values in times.live.values() for one in values)
    text = report_times(times)
    assert text.count("waiting for images") == text.count("of the sum") == 2 and "live step, 1 workers" in text


def test_figures_are_those_of_the_rounds() -> None:
    parts = {name: [Step(1.0, 2.0), Step(3.0, 2.0), Step(2.0, 8.0)] for name in PARTS}
    times = Times(parts, {2: [Step(3.0, 3.0, 0.25), Step(18.0, 6.0, 0.5), Step(6.0, 24.0, 0.0)]})
    assert times.sums == [Step(3.0, 6.0), Step(9.0, 6.0), Step(6.0, 24.0)]
    line = next(line for line in report_times(times).splitlines() if "of the sum" in line)
    assert line.split() == [
        "of",
        "the",
        "sum",
        "1.0000",
        "(1.0000",
        "to",
        "2.0000)",
        "1.0000",
        "(0.5000",
        "to",
        "1.0000)",
    ]
    assert "25.0%  (0.0% to 50.0%)" in report_times(times)


def test_features_kept_for_the_bench_are_those_of_live_steps(bench: Bench) -> None:
    for step, indices in enumerate(bench.batches):
        live = bench.model.encode(bench.read(step))
        rows = [row for i in indices for row in bench.rows[i]]
        for name, feature in bench.table.gather(rows).items():
            torch.testing.assert_close(feature, live[name], atol=1e-5, rtol=1e-5)


def test_memory_is_counted_by_part(bench: Bench) -> None:
    model, found = bench.model, measure_memory(bench)
    trained = [p for p in (*model.fusion.parameters(), *model.decoder.parameters()) if p.requires_grad]
    own = 4 * sum(p.numel() for p in trained)
    assert found["parameters of toy-wide"] == 4 * (33 * 3 * 64 + 33)
    assert found["gradients"] == own
    assert 2 * own <= found["moments of AdamW"] <= 2 * own + 8 * len(trained)
    # CLIP's tokens are a view of what its blocks gave, the class token among them.
    clip, fine, wide = 3 * 26 * 32 * 4, 3 * 25 * bench.model.align["toy-fine"].width * 4, 3 * 25 * 33 * 4
    assert found["features of a step, float32"] == clip + fine + wide
    assert found["images of a step, resampled"] == 3 * 3 * 4 * (40 * 40 + 24 * 36 + 16 * 24)
    assert found["kept for the backward pass"] > found["features of a step, float32"]
    assert found["table of 12 images, float16"] == (clip * 25 // 26 + fine + wide) * 12 // 3 // 2
    peaks = measure_peaks(bench)
    read, encoded, fitted, live = peaks.values()
    assert found["images of a step, resampled"] <= read and found["features of a step, float32"] <= encoded
    assert found["gradients"] + found["moments of AdamW"] <= min(fitted, live)
    text = report_memory(found, peaks)
    assert len(text.splitlines()) == len(found) + 4 + 2 and "at its peak, resident" in text


def test_images_in_memory_are_written_as_files_that_hold_them(tmp_path: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8, generator=draw) for _ in range(2)]
    samples = [Sample(str(n), images[n % 2], "what?", ("this",)) for n in range(3)]
    written = _as_files(samples, tmp_path)
    assert written[0].image == written[2].image != written[1].image
    assert all(torch.equal(read_image(one.image), images[n % 2]) for n, one in enumerate(written))
