"""Run by a test under torchrun: `tove`, but every batch takes a while and is a shard, so that one can kill a process
that has something to lose. Each process leaves its id in the folder PIDS, in a file named after its number."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tove_core.cli.main import main
from tove_core.data.cache.writer import Writer
from tove_core.model import ToveModel

encode, start = ToveModel.encode, Writer.__init__


def slowly(self: ToveModel, images: Any, only: Any = None) -> Any:
    if only is not None:  # calibration runs everything at once
        own = Path(os.environ["PIDS"]) / os.environ["RANK"]
        if not own.is_file():  # named when it is written, because the test reads it as soon as it is there
            own.with_suffix(".tmp").write_text(str(os.getpid()))
            own.with_suffix(".tmp").rename(own)
        time.sleep(0.3)
    return encode(self, images, only)


def often(self: Writer, *given: Any, **options: Any) -> None:
    start(self, *given, **{**options, "shard_bytes": 1})


if __name__ == "__main__":
    ToveModel.encode, Writer.__init__ = slowly, often  # type: ignore[method-assign]
    main()
