"""Exit codes of jobs: 0 done, 1 failed while running, 2 wrong input, 130 interrupted."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from common.errors import JobError

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def escape_output() -> None:
    """Escape from now on what the encoding of stdout or stderr lacks: λ in ASCII, or the odd bytes of a name."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when the process started
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_job(main: Callable[[], int]) -> NoReturn:
    """Run the main function of a job, report errors in one line, and exit.

    The exit code is 0 when the job is done, 2 when flags or input are wrong, 1 when something failed while the
    job ran, and 130 when it was interrupted.
    """
    escape_output()
    try:
        code = main()
    except JobError as error:
        print(f"{_program()}: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print(f"{_program()}: interrupted; no result was written", file=sys.stderr)
        code = INTERRUPTED
    except Exception:
        traceback.print_exc()
        code = 1
    flush_output()
    raise SystemExit(code)


def _program() -> str:
    """Return the name that users know this program by: of its file, or of the package that `python -m` runs."""
    file = Path(sys.argv[0])
    return file.parent.name if file.name == "__main__.py" else file.name


def flush_output() -> None:
    """Write what is still in a buffer, if anybody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
