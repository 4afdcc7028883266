"""Jobs that run in this process, and their metrics."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Job = Callable[[Sequence[str]], int]

NOT_WORK = {"open", "start Spark", "report", "total"}
"""Phases whose time does not depend on the engine, and the total."""


def run(job: Job, *flags: str) -> dict[str, Any]:
    """Run a job and return its metrics.json."""
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):
            job([*flags, "--quiet", "--out", f"{folder}/run"])
        metrics: dict[str, Any] = json.loads(Path(folder, "run", "metrics.json").read_text())
        return metrics


def phases(metrics: dict[str, Any], names: set[str]) -> float:
    """Return the seconds of the named phases together."""
    return float(sum(value for name, value in metrics["seconds"].items() if name in names))


def work(metrics: dict[str, Any]) -> float:
    """Return the seconds of all phases whose time depends on the engine."""
    return phases(metrics, set(metrics["seconds"]) - NOT_WORK)
