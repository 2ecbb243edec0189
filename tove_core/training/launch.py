"""Starts the processes that train together: torchrun's own launcher around the same command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from tove_core.errors import ConfigError, ToveError


class Launch:
    """How many processes, on how many machines.

    Args:
        nproc: processes on this machine.
        nnodes: machines; the same command is started on each.
        node_rank: this machine's number, from 0, which is what None means.
        rdzv_endpoint: HOST:PORT of the first machine, where all meet.

    Raises:
        ConfigError: the numbers contradict each other, no endpoint is given for several machines, or what only several
            machines need is given for one.
    """

    def __init__(
        self, nproc: int = 1, nnodes: int = 1, node_rank: int | None = None, rdzv_endpoint: str | None = None
    ) -> None:
        if nnodes == 1:
            for name, value in (("--node-rank", node_rank), ("--rdzv-endpoint", rdzv_endpoint)):
                if value is not None:
                    raise ConfigError(
                        f"{name} {value} is for several machines and there is one; give --nnodes, or leave it out"
                    )
        node_rank = node_rank or 0
        if not 0 <= node_rank < nnodes:
            raise ConfigError(f"--node-rank is {node_rank}, but {nnodes} machines are numbered 0 to {nnodes - 1}")
        if nnodes > 1 and not rdzv_endpoint:
            raise ConfigError(f"{nnodes} machines need a place to meet; give --rdzv-endpoint HOST:PORT of the first")
        self.nproc, self.nnodes, self.node_rank, self.rdzv_endpoint = nproc, nnodes, node_rank, rdzv_endpoint

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.nproc * self.nnodes

    @property
    def is_needed(self) -> bool:
        """Whether this process is to start others, and is not one that was started."""
        return self.processes > 1 and "LOCAL_RANK" not in os.environ

    def words(self) -> list[str]:
        """Return the options that say this to a command."""
        words = ["--nproc", str(self.nproc), "--nnodes", str(self.nnodes)]
        if self.nnodes > 1 and self.rdzv_endpoint:
            words += ["--node-rank", str(self.node_rank), "--rdzv-endpoint", self.rdzv_endpoint]
        return words

    def start(self, words: Sequence[str]) -> None:
        """Run `tove WORDS` in every process and wait; returns when all have ended well.

        Raises:
            ToveError: a process failed; it has said why.
            SystemExit: they were ended by a signal; the code is 128 plus its number.
        """
        from torch.distributed.elastic.multiprocessing import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import parse_args, run

        # What torchrun logs is about itself; the processes have said what matters.
        for name in [one for one in logging.root.manager.loggerDict if one.startswith("torch.distributed.elastic")]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        options = parse_args([*self._options(), "-m", "tove_core"])
        options.training_script_args = list(words)  # parsed with the rest, --nproc would be taken for one of torchrun's
        try:
            run(options)
        except SignalException as stopped:
            sys.exit(128 + int(stopped.sigval))
        except ChildFailedError as failed:
            rank, failure = failed.get_first_failure()
            if failure.exitcode > 128:
                sys.exit(failure.exitcode)
            died = f"was killed by signal {-failure.exitcode}" if failure.exitcode < 0 else "failed, see above"
            raise ToveError(f"process {rank} of {self.processes} {died}; the others were ended") from None

    def _options(self) -> list[str]:
        meeting = ["--standalone"]
        if self.nnodes > 1:
            meeting = ["--node-rank", str(self.node_rank), "--rdzv-backend", "static"]
            meeting += ["--rdzv-endpoint", str(self.rdzv_endpoint)]
        return ["--nnodes", str(self.nnodes), "--nproc-per-node", str(self.nproc), *meeting]
