"""Write what every compiled kernel uses: `python kernels/benchmarks/resources.py --out FILE.csv`; needs no GPU."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from kernel_bench.used import compile_all, write_used


def main() -> int:
    """Compile, write the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file to write")
    given = parser.parse_args()
    rows = compile_all()
    write_used(given.out, rows)
    for row in rows:
        print(
            f"{row.arch:7} {row.case:50} {row.kernel:20} {row.registers:4} registers {row.spilled:4} spilled "
            f"{row.shared:6} B shared, loads {row.loads or '-'}, stores {row.stores or '-'}, "
            f"occupancy {row.occupancy:.0%}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
