"""Access to the user's terminal, although a launcher stands between it and rank 0."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

LAUNCHERS = ("mpiexec", "mpirun", "hydra", "prte", "orte", "orted")
"""Prefixes of the names of the processes through which MPI implementations start ranks."""


def adopt_terminal() -> None:
    """Write stderr to the launcher's terminal, if it has one, so that progress can be shown there.

    A launcher reads its ranks' stderr from a pipe and prints it on its own stderr, so no rank can tell whether a
    person is watching. On Linux, the launcher's open files show it. Elsewhere, or if rank 0 runs on another
    machine than the launcher, stderr stays as it is.
    """
    if sys.stderr.isatty():
        return
    with suppress(OSError, ValueError, IndexError):
        launcher, parent = None, os.getppid()
        while Path(f"/proc/{parent}/comm").read_text().startswith(LAUNCHERS):
            launcher = parent
            parent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        if launcher is None:
            return
        stderr = os.open(f"/proc/{launcher}/fd/2", os.O_WRONLY | os.O_NOCTTY)
        if os.isatty(stderr):
            os.dup2(stderr, 2)
        os.close(stderr)
