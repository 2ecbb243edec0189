"""Make docs/benchmarks/kernels.md and its plot from the measured tables: `python kernels/benchmarks/page.py`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernel_bench.page import measured_files, page
from kernel_bench.plot import plot
from kernel_bench.table import read
from kernel_bench.used import read_used

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"


def main() -> int:
    """Read the CSV files of a folder and write the page beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=DOCS, help="holds kernels-cpu.csv, kernels-resources.csv")
    folder: Path = parser.parse_args().folder
    rows = [row for path in measured_files(folder) for row in read(path)]
    used = read_used(folder / "kernels-resources.csv")
    (folder / "kernels.md").write_text(page(rows, used))
    (folder / "kernels.svg").write_text(plot(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
