"""`tove bench`: comparisons over several seeds, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tove_core.cli.device import tell_unused_gpu
from tove_core.cli.runs import Device, Set

app = typer.Typer(
    help="Put claims and recipes to the test, and measure speed; results are kept, so that a stopped bench goes on.",
    no_args_is_help=True,
)


@app.command()
def claims(
    out: Annotated[Path, typer.Option(help="folder of the results")] = Path("runs/bench-claims"),
    data: Annotated[str, typer.Option(help="comma list of world, easy-vqa, nlvr")] = "world",
    stages: Annotated[str, typer.Option(help="comma list of fusions, curves, detach, merge")] = (
        "fusions,curves,detach,merge"
    ),
    seeds: Annotated[str, typer.Option(help="comma list of seeds")] = "0,1,2",
    easy_vqa: Annotated[Path | None, typer.Option(help="folder of easy-VQA")] = None,
    nlvr: Annotated[Path | None, typer.Option(help="folder of NLVR")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="begin no job after so many minutes")] = None,
    page: Annotated[Path | None, typer.Option(help="write the page and its picture here, of all results in --out")] = (
        None
    ),
    results: Annotated[
        Path | None, typer.Option(help="start from the results beside a page, docs/benchmarks/claims.json")
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="tiny models and data: all parts run, and the figures say nothing")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Put the method's claims to the test, at equal trainable size, steps and language model, over several seeds.

    A stopped bench goes on where it stopped: finished results are kept.
    """
    from tove_core.demo.claims import page as pages
    from tove_core.demo.claims import run as bench
    from tove_core.demo.claims.subjects import DATA, SIZES, TINY
    from tove_core.errors import ConfigError

    numbers = _numbers(seeds)
    if not _listed(data):
        raise ConfigError(f"no data set is named; choose from {', '.join(DATA)}")
    sizes = dict.fromkeys(DATA, TINY) if small else SIZES
    if results is not None:
        bench.unpack(results, out)
    paths = {name: path for name, path in (("easy-vqa", easy_vqa), ("nlvr", nlvr)) if path is not None}
    found = bench.run(
        out,
        data=_listed(data),
        stages=_listed(stages),
        seeds=numbers,
        paths=paths,
        sizes=sizes,
        minutes=minutes,
        quiet=quiet,
    )
    print(pages.tables(found))
    if page is not None:
        everything = [bench.collect(out, name, sizes[name], numbers) for name in DATA]
        pages.write(page, [one for one in everything if one.results])
        print(f"wrote {page}")


def _listed(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(seeds: str) -> list[int]:
    from tove_core.errors import ConfigError

    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"seeds {seeds!r} is not a comma list of whole numbers such as 0,1,2") from None
    if min(numbers) < 0:
        raise ConfigError(f"seed {min(numbers)} was given, but seeds are whole numbers from 0")
    return numbers


@app.command()
def recipe(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a run with experts")],
    set_: Set = None,
    task: Annotated[str | None, typer.Option(help="what is scored, as for tove evaluate; by the data if not given")] = (
        None
    ),
    seeds: Annotated[
        str | None, typer.Option(help="comma list of seeds, each trained and scored in a folder of its own")
    ] = None,
    device: Device = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """Train a recipe and its control, CLIP alone at equal trainable size and steps; score both on held-out data.

    The folder of the configuration's output gets two runs, hub and clip-only, with their predictions. With --seeds it
    gets a folder of both for each seed, and the differences are given over seeds: one seed may be luck. A stopped
    command goes on where it stopped.
    """
    from tove_core.config import RunConfig
    from tove_core.evaluation.against_clip import run_recipe, run_seeds
    from tove_core.settings import read_config

    wanted = read_config(RunConfig, config, set_ or [])
    tell_unused_gpu(device)
    if seeds is None:
        found: object = run_recipe(wanted, task, device=device, quiet=quiet, tell=print)
    else:
        found = run_seeds(wanted, _numbers(seeds), task, device=device, quiet=quiet, tell=print)
    print(f"A: the hub of experts, B: CLIP only\n{found}")


@app.command()
def cache(
    steps: Annotated[int, typer.Option(min=5, help="training steps a round")] = 15,
    rounds: Annotated[int, typer.Option(min=1, help="how often each kind is measured")] = 3,
    images: Annotated[
        int, typer.Option(min=1000, help="made-up images to open; rounded up to whole thousands")
    ] = 1_000_000,
) -> None:
    """Time training steps on features in memory and on disk, their checksums, and the opening of a million images."""
    from tove_core.demo.cache_bench import report_steps
    from tove_core.demo.cache_checks import report_checks
    from tove_core.demo.cache_opening import report_opening

    print(report_steps(steps, rounds), flush=True)
    print(report_checks(), flush=True)
    print(report_opening(images))


@app.command()
def data(
    samples: Annotated[int, typer.Option(min=1, help="made-up samples")] = 1_000_000,
    images: Annotated[int, typer.Option(min=1, help="different images that they show")] = 200_000,
) -> None:
    """Time the reading of a million made-up samples as jsonl, csv and llava, each in a process of its own."""
    from tove_core.demo.data_bench import report_reading

    print(report_reading(samples, min(images, samples)))


@app.command()
def pipeline(
    path: Annotated[
        Path | None, typer.Option(help="folder of easy-VQA; scenes of the embedded world as PNG files if not given")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="steps that count, of each part in each round")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="how often the parts and the live steps take turns")] = 7,
    batch_size: Annotated[int, typer.Option(min=2, help="samples per step")] = 32,
    workers: Annotated[int, typer.Option(min=1, help="threads that read ahead, compared with none")] = 2,
    device: Annotated[str | None, typer.Option(help="where to run, such as cuda:0; the CPU when not given")] = None,
) -> None:
    """Time live training steps beside the sum of their parts, and say what waits for images and what takes memory."""
    from tove_core.demo.pipeline_bench import Bench, report_times, subject
    from tove_core.demo.pipeline_memory import measure_memory, measure_peaks, report_memory

    with subject(path, device) as (model, samples):
        bench = Bench(model, samples, batch_size, steps)
        print(f"{path or 'embedded world'}: {len(bench.images)} images, {batch_size} samples a step, on {model.device}")
        print(report_times(bench.measure(rounds, (0, workers))), flush=True)
        print(report_memory(measure_memory(bench), measure_peaks(bench)))


@app.command()
def startup(repeat: Annotated[int, typer.Option(min=1, help="runs of each command")] = 7) -> None:
    """Time the commands that must not import torch, each in a process of its own."""
    import statistics
    import subprocess
    import sys
    import time

    start = "from tove_core.cli.main import main; main()"
    for arguments in (["--help"], ["experts", "list"]):
        seconds = []
        for _ in range(repeat):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", start, *arguments], check=True, capture_output=True)
            seconds.append(time.perf_counter() - began)
        spread = f"{min(seconds):.3f} to {max(seconds):.3f}"
        print(f"tove {' '.join(arguments):<14} median {statistics.median(seconds):.3f} s ({spread}, {repeat} runs)")


@app.command("score")
def score_captions(
    captions: Annotated[int, typer.Option(min=2, help="captions that are scored")] = 5000,
    references: Annotated[int, typer.Option(min=1, help="references of each")] = 5,
) -> None:
    """Time the caption metrics on made-up captions of the length of COCO's, in one process."""
    import random
    import time

    from tove_core.evaluation.metrics.captions import score_captions as score

    draw = random.Random(0)
    # Frequencies fall as in any language, so that rare and common words both occur.
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "st", "ra", "lo")]
    weights = [1 / (rank + 3) for rank in range(len(words))]

    def caption() -> str:
        return " ".join(draw.choices(words, weights, k=draw.randint(8, 14))).capitalize() + "."

    right = {str(n): [caption() for _ in range(references)] for n in range(captions)}
    said = {name: caption() for name in right}
    began, busy = time.perf_counter(), time.process_time()
    found = score(said, right)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    print(
        f"{captions} captions, {references} references each, {len(found)} metrics: {seconds:.2f} s, {busy:.2f} s of CPU"
    )
