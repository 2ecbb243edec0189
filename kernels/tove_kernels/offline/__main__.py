"""Print the table of compiled kernels as JSON lines: `python -m tove_kernels.offline [--main] [ARCH...]`."""

from __future__ import annotations

import argparse
import json
import os

COMPLAINTS = 3  # an exit status that no crash has


def main() -> int:
    """Compile and print; the exit status is COMPLAINTS where a kernel spills or is not vectorised."""
    parser = argparse.ArgumentParser(prog="python -m tove_kernels.offline", description=__doc__)
    parser.add_argument("arch", nargs="*", default=["sm_90"], help="architectures; sm_90 if none is named")
    parser.add_argument("--main", action="store_true", help="only the main shape of each kind")
    given = parser.parse_args()
    os.environ.pop("TRITON_INTERPRET", None)  # before triton is imported: what is interpreted is not compiled

    from tove_kernels.offline.cases import cases
    from tove_kernels.offline.rows import rows

    failed = False
    for arch in given.arch:
        for row in rows(cases(given.main), arch):
            failed |= bool(row.complaints)
            print(json.dumps(row.as_dict()), flush=True)
    return COMPLAINTS if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
