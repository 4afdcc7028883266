"""`python -m common.compare FOLDER...`: one page that compares all runs at or below some folders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.atomic import write_atomically
from common.compare.page import page_of
from common.compare.runs import find_runs, read_runs
from common.data.shipped import expanded
from common.errors import InputError
from common.run.exits import run_job
from common.run.parser import Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, read the runs, write the page, and say where it is."""
    flags = Parser(description="Compare runs: one page for all run folders at or below some folders.")
    flags.add_argument(
        "folders", metavar="FOLDER", nargs="+", type=Path, help="a folder of run folders, or one of these"
    )
    flags.add_argument(
        "--out", metavar="FILE", type=Path, help="the page (default: compare.html in the first FOLDER)"
    )
    arguments = flags.parse_arguments(argv)
    folders = [expanded(folder) for folder in arguments.folders]
    target = expanded(arguments.out or folders[0] / "compare.html")
    runs, problems = read_runs(find_runs(folders))
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    if not runs:
        raise InputError(f"{', '.join(map(str, folders))}: no run folder is there; run a job first")
    try:
        with write_atomically(target) as file:
            file.write(page_of(runs, target.parent))
    except OSError as error:
        raise InputError(f"--out {target}: cannot be written ({error.strerror or error})") from error
    left = f", {len(problems)} could not be read" if problems else ""
    print(f"{len(runs)} runs{left}: {target}")
    return 0


if __name__ == "__main__":
    run_job(main)
