"""The last lines of a job: where its report is, and the page that compares runs."""

from __future__ import annotations

import argparse

from common.console import Console
from common.errors import InputError


def announce(report: object, arguments: argparse.Namespace, console: Console) -> None:
    """Print where the report is, write the page of --compare if it is asked for, and print where that is.

    The run is done, so that a page that cannot be written is a warning.

    Args:
        report: its path or address.
        arguments: the flags of the job.
        console: warns.
    """
    print(f"report: {report}")
    if arguments.compare is None:
        return
    from common.report.comparison import write_comparison  # pages need Jinja, which jobs load at their end
    from common.report.runs import PAGE

    page = arguments.compare / PAGE
    try:
        runs, problems = write_comparison([arguments.compare], page)
    except InputError as error:
        console.warn(f"--compare: {error}")
        return
    for problem in problems:
        console.warn(problem)
    print(f"comparison of {len(runs)} runs: {page}")
