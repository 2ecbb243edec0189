"""What a data set of a million made-up samples costs to read, and to number its images."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tove_core.resident import peak_resident

SAMPLES, IMAGES, PER_FOLDER = 1_000_000, 200_000, 10_000
FORMATS = ("jsonl", "csv", "llava")
_WORDS = ("what", "colour", "is", "the", "large", "round", "thing", "left", "of", "a", "small", "square", "in", "this")
_READ = "import sys; from tove_core.demo.data_bench import time_reading; time_reading(sys.argv[1], sys.argv[2])"


def write_samples(folder: Path, samples: int = SAMPLES, images: int = IMAGES) -> None:
    """Write questions of ten words about empty files, one file of them for each of `FORMATS`."""
    for k in range(images):
        if k % PER_FOLDER == 0:
            (folder / f"{k // PER_FOLDER:03}").mkdir()
        (folder / _name(k)).touch()
    rows = list(_rows(samples, images))
    with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"image": i, "question": q, "answer": a}) + "\n" for i, q, a in rows)
    with (folder / "items.csv").open("w", encoding="utf-8") as file:
        file.write("image,question,answer\n")
        file.writelines(f"{image},{question},{answer}\n" for image, question, answer in rows)
    with (folder / "items.json").open("w", encoding="utf-8") as file:
        told = ({"id": str(n), "image": i, "conversations": _turns(q, a)} for n, (i, q, a) in enumerate(rows))
        file.writelines(("[" if n == 0 else ",") + json.dumps(one) + "\n" for n, one in enumerate(told))
        file.write("]")


def time_reading(reader: str, path: str) -> None:
    """Print seconds, seconds of CPU and megabytes for reading a data set and numbering its images, as JSON."""
    from tove_core.config import DataConfig
    from tove_core.data.readers import read
    from tove_core.data.sample import distinct_images

    before, start, busy = peak_resident() or 0, time.perf_counter(), time.process_time()
    samples = read(DataConfig(reader=reader, path=Path(path)))
    images, _ = distinct_images(samples)
    told = {"samples": len(samples), "images": len(images), "seconds": round(time.perf_counter() - start, 2)}
    told |= {"cpu": round(time.process_time() - busy, 2), "before": before, "peak": peak_resident() or 0}
    print(json.dumps(told))


def report_reading(samples: int = SAMPLES, images: int = IMAGES) -> str:
    """Return what reading the made-up samples takes by format, each in a process of its own, as text."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        write_samples(Path(name), samples, images)
        for reader in FORMATS:
            file = Path(name) / ("items.json" if reader == "llava" else f"items.{reader}")
            done = subprocess.run(
                [sys.executable, "-c", _READ, reader, str(file)], check=True, capture_output=True, text=True
            )
            told = json.loads(done.stdout)
            before, peak = told["before"] / 1e6, told["peak"] / 1e6
            lines.append(
                f"{reader:<6} {told['samples']:,} samples of {told['images']:,} images: {told['seconds']} s "
                f"({told['cpu']} s of CPU), peak memory {peak:.0f} MB (of which {before:.0f} MB before)"
            )
    return "\n".join(lines)


def _rows(samples: int, images: int) -> Iterator[tuple[str, str, str]]:
    draw = random.Random(0)
    for n in range(samples):
        yield _name(n % images), " ".join(draw.choices(_WORDS, k=10)) + "?", draw.choice(_WORDS)


def _name(image: int) -> str:
    return f"{image // PER_FOLDER:03}/{image:012}.jpg"


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
