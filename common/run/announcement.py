"""The last lines of a job: where its report is, and the page that compares runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.console import Console
from common.errors import InputError
from common.report.runs import PAGE


def announce(report: object, arguments: argparse.Namespace, console: Console) -> None:
    """Write the page of --compare if it is asked for, and print where it is; then print where the report is.

    The run is done, so that a page that cannot be written is a warning.

    Args:
        report: its path or address.
        arguments: the flags of the job.
        console: warns.
    """
    if arguments.compare is not None:
        _compare(arguments.compare, console)
    print(f"report: {report}")


def _compare(folder: Path, console: Console) -> None:
    from common.report.comparison import write_comparison  # pages need Jinja, which jobs load at their end

    page = folder / PAGE
    try:
        runs, problems = write_comparison([folder], page)
    except (InputError, OSError) as error:
        console.warn(f"--compare: {error}")
        return
    for problem in problems:
        console.warn(problem)
    print(f"comparison of {len(runs)} runs: {page}")
