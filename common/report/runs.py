"""Runs of all jobs in one form, read from the metrics.json of their folders."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError

METRICS, REPORT = "metrics.json", "report.html"
PAGE = "compare.html"
"""The name of the page that compares runs, unless another is asked for."""


@dataclass(frozen=True)
class Run:
    """A run, as the page shows it; what a job does not have is None.

    Attributes:
        folder: the run folder.
        name: its path below the folders that were asked for.
        job: the job that made it.
        data: the source of the images.
        model: the feature map of a ridge classifier, the network, or the model that predicted.
        engine: Spark, MPI or none.
        workers: the number of workers.
        images: training images, or predicted ones.
        accuracy: of test images, or of predictions whose class is known.
        macro_f1: the mean F1 of the classes.
        lambda_: the chosen λ.
        seconds: of the whole job.
        finished: seconds since 1970.
        classes: the names of the classes.
        confusion: (true class, predicted class, images) for each pair that occurs; None if the run has none.
        command: as it was typed.
    """

    folder: Path
    name: str
    job: str
    data: str
    model: str
    engine: str
    workers: int | None
    images: int | None
    accuracy: float | None
    macro_f1: float | None
    lambda_: float | None
    seconds: float | None
    finished: float
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, int, int], ...] | None
    command: str

    @property
    def rate(self) -> float | None:
        """Images per second of the whole job."""
        return self.images / self.seconds if self.images and self.seconds else None


def find_runs(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield every run folder at or below some folders, and its name below them, in the order of names.

    Folders whose names begin with a dot are left out: runs that are being written have such names. What lies
    inside a run folder is part of that run.

    Raises:
        InputError: there is no such folder.
    """
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name a folder with run folders in it")
        for path, inside, files in os.walk(folder, onerror=_refuse):
            found = Path(path)
            if METRICS in files:
                inside.clear()
            if METRICS in files and found.resolve() not in seen:
                seen.add(found.resolve())
                name = found.resolve().name if found == folder else str(found.relative_to(folder))
                yield found, name if len(folders) == 1 else str(Path(folder.name) / name)
            inside[:] = sorted(name for name in inside if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror}); name other folders") from error


def read_runs(found: Iterable[tuple[Path, str]]) -> tuple[list[Run], list[str]]:
    """Read run folders.

    Returns:
        the runs, the latest first; and a line for each that cannot be read.
    """
    runs, problems = [], []
    for folder, name in found:
        try:
            record = json.loads((folder / METRICS).read_text(encoding="utf-8"))
            runs.append(_run(folder, name, record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            problems.append(f"{folder / METRICS}: cannot be read ({type(error).__name__}: {error})")
    return sorted(runs, key=lambda run: (-run.finished, run.name)), problems


def _run(folder: Path, name: str, record: Mapping[str, Any]) -> Run:
    images, seconds = record.get("images") or {}, record.get("seconds") or {}
    n = images.get("train", images.get("predicted"))
    confusion = record.get("confusion")
    return Run(
        folder=folder,
        name=name,
        job=str(record["job"]),
        data=str(record.get("data", "")),
        model=_model(record),
        engine=str(record.get("engine", "")),
        workers=_number(record.get("workers"), int),
        images=_number(n, int),
        accuracy=_number(record.get("test_accuracy", record.get("accuracy")), float),
        macro_f1=_number(record.get("macro_f1"), float),
        lambda_=_number(record.get("best_lambda", record.get("lambda")), float),
        seconds=_number(seconds.get("total"), float),
        finished=(folder / METRICS).stat().st_mtime,
        classes=tuple(map(str, record.get("classes") or ())),
        confusion=None if confusion is None else tuple((int(t), int(p), int(n)) for t, p, n in confusion),
        command=str(record.get("command", "")),
    )


def _model(record: Mapping[str, Any]) -> str:
    """Return the feature map, the network, or the model that predicted, in words."""
    features = record.get("features")
    if isinstance(features, Mapping):
        return str(features.get("spec") or features.get("kind"))
    return str(record.get("network") or record.get("model") or "pixels")


def _number(value: Any, kind: Any) -> Any:
    """Return a number of metrics.json, which may be null, or NaN where a run diverged; None for both."""
    return None if value is None or not math.isfinite(value) else kind(value)
