"""How an MPI job starts and ends: signals, exit codes, and an end for all ranks when one fails."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mpi4py import MPI

from common.errors import JobError
from common.run.exits import INTERRUPTED, escape_output
from mpi_jobs.engine.terminal import adopt_terminal
from mpi_jobs.engine.world import AgreedError

PASS_ON_S = 0.2
"""Seconds that a launcher gets to print a rank's last message before it has to end all ranks."""


def run_mpi_job(main: Callable[[], int]) -> NoReturn:
    """Run the main function of a job on this rank, report errors, and exit.

    The exit code is 0 when the job is done, 2 when flags or input are wrong, 1 when something failed while the job
    ran, and 130 when it was interrupted.

    An error that only this rank has met ends all ranks at once, however they were started; otherwise MPI would
    leave them waiting. Only rank 0 handles Ctrl-C and the signals that end a batch job, because only rank 0 has
    files to tidy up.
    """
    escape_output()
    world = MPI.COMM_WORLD
    _set_up_signals(world.rank)
    name = Path(sys.argv[0]).name
    try:
        code = _agreed_exit_code(main, name)
        sys.stdout.flush()
        sys.stderr.flush()
        world.Barrier()  # some launchers end the other ranks as soon as one has exited with 2
    except JobError as error:
        _abort(f"{name}: {error} (rank {world.rank})", error.exit_code)
    except KeyboardInterrupt as interrupt:
        left = "; ".join(getattr(interrupt, "__notes__", ["no result was written"]))
        _abort(f"{name}: interrupted ({str(interrupt) or 'SIGINT'}); {left}", INTERRUPTED)
    except BaseException:
        _abort(f"{name}: rank {world.rank} of {world.size} failed\n{traceback.format_exc()}", 1)
    raise SystemExit(code)


def _agreed_exit_code(main: Callable[[], int], name: str) -> int:
    """Run `main` and return the exit code, where all ranks agree on it."""
    try:
        return main()
    except AgreedError as error:
        if MPI.COMM_WORLD.rank == 0:
            print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as error:  # raised by --help and by flags that do not parse
        return int(error.code or 0)


def _set_up_signals(rank: int) -> None:
    if rank == 0:
        adopt_terminal()
        signal.signal(signal.SIGTERM, _interrupt)  # sent by batch systems, and by Open MPI when a rank is lost
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _abort(message: str, code: int) -> NoReturn:
    """Print why, and end every rank."""
    print(message, file=sys.stderr, flush=True)
    time.sleep(PASS_ON_S)
    # under srun, MPICH's Abort may wait for an answer from a launcher that is ending too
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    MPI.COMM_WORLD.Abort(code)
    raise SystemExit(code)
