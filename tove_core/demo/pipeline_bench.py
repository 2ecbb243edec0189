"""What a live training step (training.cache: false) is made of, and how long it waits for images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from tove_core.builder import assemble
from tove_core.config import DataConfig, TrainingConfig
from tove_core.data.batches import BatchSampler
from tove_core.data.features import FeatureTable
from tove_core.data.readers import read
from tove_core.data.sample import Sample, distinct_images, load_image
from tove_core.demo.reader import samples as world_samples
from tove_core.demo.splits import TRAIN
from tove_core.demo.world import model_config
from tove_core.model import ToveModel
from tove_core.training.examples import Examples
from tove_core.training.loop import fit
from tove_core.training.run import prepare

READ, ENCODE, TRAINED = "read and resample images", "CLIP and experts", "fusion, decoder and AdamW"
PARTS = (READ, ENCODE, TRAINED)
SAMPLES, SEED = 400, 0


class Step(NamedTuple):
    """What a step takes: seconds by the clock, seconds of CPU over all threads, and the share spent on waiting."""

    wall: float
    cpu: float
    waiting: float = 0.0


@dataclass
class Times:
    """Medians over the steps of each round, of the parts and of live steps by their number of workers.

    CPU time counts neither what else the machine does nor a GPU's work; the clock counts both.
    """

    parts: dict[str, list[Step]] = field(default_factory=lambda: {name: [] for name in PARTS})
    live: dict[int, list[Step]] = field(default_factory=dict)

    @property
    def sums(self) -> list[Step]:
        """The parts together, by round."""
        rounds = zip(*self.parts.values(), strict=True)
        return [Step(sum(one.wall for one in parts), sum(one.cpu for one in parts)) for parts in rounds]


@contextmanager
def subject(path: Path | None, device: str | None = None) -> Iterator[tuple[ToveModel, list[Sample]]]:
    """Give the embedded world's hub, calibrated, and questions about image files.

    Args:
        path: folder of easy-VQA; None: scenes of the embedded world, written as PNG for as long as this lasts.
    """
    with TemporaryDirectory() as folder:
        if path is not None:
            samples = read(DataConfig(reader="easy-vqa", path=path, limit=SAMPLES))
        else:
            samples = _as_files(world_samples(TRAIN, SAMPLES // 4, questions=4)[:SAMPLES], Path(folder))
        model = assemble(model_config("gate"), device=device, seed=SEED)
        prepare(model, samples)
        yield model, samples


def _as_files(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """Return the samples with their images as PNG files."""
    from PIL import Image

    images, rows = distinct_images(samples)
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(torch.as_tensor(image).permute(1, 2, 0).numpy()).save(path)
    return [replace(sample, image=paths[row]) for sample, (row,) in zip(samples, rows, strict=True)]


class Bench:
    """Times the parts of training steps, and whole ones.

    Args:
        model: calibrated.
        samples: one image each.
        batch: samples per step.
        steps: per round that count; each part takes one more first, that does not.
    """

    def __init__(self, model: ToveModel, samples: Sequence[Sample], batch: int, steps: int) -> None:
        self.model, self.samples, self.steps = model, samples, steps
        self.config = TrainingConfig(steps=steps + 1, batch_size=batch, learning_rate=1e-4, warmup=1)
        sampler = BatchSampler(len(samples), batch, SEED)
        self.batches = [sampler.batch(step) for step in range(steps + 1)]
        self.images, self.rows = distinct_images(samples)
        self.preprocess = model.preprocessor()
        used = sorted({row for batch in self.batches for i in batch for row in self.rows[i]})
        self.table = self._table(used)

    def measure(self, rounds: int, workers: Sequence[int]) -> Times:
        """Return the times of so many rounds; in each the parts and the live steps take turns."""
        times = Times(live={count: [] for count in workers})
        for _ in range(rounds):
            times.parts[READ].append(self._alone(self.read))
            seen = [self.read(step) for step in range(len(self.batches))]
            times.parts[ENCODE].append(self._alone(lambda step, seen=seen: self.model.encode(seen[step])))
            times.parts[TRAINED].append(self.fitted(Examples(self.model, self.samples, self.table)))
            for count in workers:
                live = self.fitted(Examples(self.model, self.samples, workers=count))
                # Without workers all reading is waiting, and its resampling is done as the images are encoded.
                share = live.waiting if count else times.parts[READ][-1].wall / live.wall
                times.live[count].append(live._replace(waiting=share))
        return times

    def read(self, step: int) -> list:  # type: ignore[type-arg]  # of Seen
        """Return what CLIP and the experts see of a step's images."""
        return [self.preprocess.see(load_image(self.images[row])) for i in self.batches[step] for row in self.rows[i]]

    def _table(self, used: Sequence[int]) -> FeatureTable:
        """Return the features of the images that are used; of the others, zeros that nobody looks at."""
        with torch.no_grad():
            found = [self.model.encode(load_image(self.images[row])) for row in used]
        table = {name: torch.zeros(len(self.images), *value.shape[1:]) for name, value in found[0].items()}
        for name, whole in table.items():
            whole[list(used)] = torch.cat([one[name] for one in found]).cpu()
        return FeatureTable(table, {})

    def fitted(self, examples: Examples) -> Step:
        """Train and return what a step takes."""
        ends = [self._now()]

        def after(_: int) -> None:
            ends.append(self._now(examples))

        fit(self.model, examples, self.config, seed=SEED, quiet=True, after_step=after)
        return _median(ends[1:])

    def _alone(self, work: Callable[[int], object]) -> Step:
        ends = []
        for step in range(len(self.batches)):
            work(step)
            ends.append(self._now())
        return _median(ends)

    def _now(self, examples: Examples | None = None) -> tuple[float, float, float]:
        """Return the clock, the CPU time so far, and how long it was waited for images, in seconds."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)  # what was asked of the GPU belongs to this step
        waited = examples.reader.waited if examples is not None and examples.reader is not None else 0.0
        return time.perf_counter(), time.process_time(), waited


def _median(ends: Sequence[tuple[float, float, float]]) -> Step:
    """Return the medians of what lies between the ends of steps; what came before the first one is not counted."""
    taken = [[after - before for before, after in zip(*pair, strict=True)] for pair in pairwise(ends)]
    wall, cpu, _ = (statistics.median(values) for values in zip(*taken, strict=True))
    return Step(wall, cpu, sum(waited for _, _, waited in taken) / sum(whole for whole, _, _ in taken))


def report_times(times: Times) -> str:
    """Return the times as a table: medians over rounds, and the lowest and highest round."""
    lines = [f"{'':<28}{'seconds':>9}{'':20}{'of CPU':>9}"]
    rows = {**times.parts, "sum of the parts": times.sums}
    lines += [_row(name, values) for name, values in rows.items()]
    for workers, values in times.live.items():
        lines.append(_row(f"live step, {workers} workers", values))
        pairs = list(zip(values, times.sums, strict=True))
        lines.append(_row("  of the sum", [Step(one.wall / all_.wall, one.cpu / all_.cpu) for one, all_ in pairs]))
        waits = [one.waiting for one in values]
        spread = f"({min(waits):.1%} to {max(waits):.1%})"
        lines.append(f"{'  waiting for images':<28}{statistics.median(waits):>9.1%}  {spread}")
    return "\n".join(lines)


def _row(name: str, values: Sequence[Step]) -> str:
    columns = []
    for column in ([one.wall for one in values], [one.cpu for one in values]):
        columns.append(f"{statistics.median(column):>9.4f}  {f'({min(column):.4f} to {max(column):.4f})':<20}")
    return f"{name:<28}{''.join(columns)}".rstrip()
