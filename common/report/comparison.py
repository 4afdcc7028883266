"""The page that compares runs: one self-contained file, sorted and filtered by its own script."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.atomic import write_atomically
from common.errors import InputError
from common.report.pages import render
from common.report.runs import REPORT, Run, find_runs, read_runs

MOST_PAIRS = 2_000
"""Pairs of classes above which a confusion is not part of the page."""


def write_comparison(folders: Sequence[Path], target: Path) -> tuple[list[Run], list[str]]:
    """Write the page that compares all runs at or below some folders.

    Args:
        folders: where to look for run folders.
        target: the page.

    Returns:
        the runs, the latest first; and a line for each that cannot be read.

    Raises:
        InputError: there is no such folder, or no run is there.
        OSError: the page cannot be written.
    """
    runs, problems = read_runs(find_runs(folders))
    if not runs:
        raise InputError(f"{', '.join(map(str, folders))}: no run folder is there; run a job first")
    with write_atomically(target) as file:
        file.write(page_of(runs, target.parent))
    return runs, problems


def page_of(runs: Sequence[Run], beside: Path) -> bytes:
    """Return the page.

    Args:
        runs: the runs, the latest first.
        beside: the folder that the page is for, from which links to reports lead.
    """
    shown = [_shown(run, beside) for run in runs]
    # in a script element only "</" and "<!--" would end it or change its meaning
    data = json.dumps(shown, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return render("compare.html.j2", n=len(runs), data=data, shape=(1, 1))


def _shown(run: Run, beside: Path) -> dict[str, Any]:
    report = run.folder / REPORT
    link = quote(os.fsencode(os.path.relpath(report.resolve(), beside.resolve()))) if report.is_file() else None
    confusion = run.confusion if run.confusion is not None and len(run.confusion) <= MOST_PAIRS else None
    return {
        "name": run.name,
        "link": link,
        "job": run.job,
        "data": run.data,
        "model": run.model,
        "engine": run.engine,
        "workers": run.workers,
        "images": run.images,
        "accuracy": run.accuracy,
        "macro_f1": run.macro_f1,
        "lambda": run.lambda_,
        "seconds": run.seconds,
        "rate": run.rate,
        "finished": run.finished,
        "command": run.command,
        "classes": run.classes if confusion is not None else None,
        "confusion": confusion,
    }
