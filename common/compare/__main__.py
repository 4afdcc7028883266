"""`python -m common.compare FOLDER...`: one page that compares all runs at or below some folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.compare.tracking import log_runs
from common.data.shipped import expanded
from common.errors import InputError
from common.report.comparison import write_comparison
from common.report.runs import PAGE
from common.run.exits import run_job
from common.run.parser import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, read the runs, write the page, and say where it is."""
    flags = Parser(description="Compare runs: one page for all run folders at or below some folders.")
    flags.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="a folder of run folders, or one of these"
    )
    flags.add_argument("--out", metavar="FILE", type=Path, help=f"the page (default: {PAGE} in the first FOLDER)")
    flags.add_argument(
        "--mlflow",
        metavar="URI",
        help="log each run to MLflow there as well, unless it has been: http://…, or a folder",
    )
    arguments = flags.parse_arguments(argv)
    folders = [expanded(folder) for folder in arguments.folders]
    target = expanded(arguments.out or folders[0] / PAGE)
    try:
        runs, problems = write_comparison(folders, target)
    except OSError as error:
        raise InputError(f"--out {target}: cannot be written ({error.strerror or error})") from error
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    left = f", {len(problems)} could not be read" if problems else ""
    print(f"{len(runs)} runs{left}: {target}")
    if arguments.mlflow is not None:
        logged = log_runs(runs, arguments.mlflow)
        print(f"{logged} runs logged to {arguments.mlflow}, {len(runs) - logged} were there")
    return 0


if __name__ == "__main__":
    run_job(main)
