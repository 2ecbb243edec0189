"""Run by a test in a process of its own: forks processes that compute one table of features together.

A job is a JSON object; what each process saw is written to `RANK.json` and its table to `RANK.safetensors`.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import driver
import torch
from safetensors.torch import save_file

import tove_core
from tove_core.config import DataConfig
from tove_core.data.readers import read
from tove_core.training import exchange
from tove_core.training.examples import Examples
from tove_core.training.processes import join
from tove_core.training.run import prepare


def work(job: dict[str, Any], rank: int) -> None:
    """Compute the table as one of the job's processes."""
    output = Path(job["output"])
    join(None, job["world"])
    model = tove_core.build(**job["model"])
    samples = read(DataConfig(path=Path(job["data"])))
    prepare(model, samples)
    exchange.AT_ONCE = job.get("at_once", exchange.AT_ONCE)
    seen, told = [], []
    plain = model.encode

    def encode(pixels: Any, *given: Any, **options: Any) -> Any:
        if job.get("fail") == rank and seen:
            raise RuntimeError("the card caught fire")
        seen.append(len(pixels))
        return plain(pixels, *given, **options)

    model.encode = encode
    found: dict[str, Any] = {"error": None}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            made = Examples.cached(
                model,
                samples,
                batch_size=2,
                progress=lambda done, count: told.append([done, count]),
                max_broken=job.get("max_broken", 0.2),
                together=True,
            )
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"
        else:
            found |= {"ids": [sample.id for sample in made.samples], "rows": made.rows}
            found["broken"] = {str(row): reason for row, reason in made.broken.reasons.items()}
            save_file(made.table.features, output / f"{rank}.safetensors")  # type: ignore[union-attr]
    found |= {"encoded": sum(seen), "told": told, "warned": [str(one.message) for one in warned]}
    (output / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    driver.work = work
    for each in json.loads(Path(sys.argv[1]).read_text()):
        for child in driver.fork(each):
            os.waitpid(child, 0)
