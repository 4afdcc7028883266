"""The files of a prediction run besides the predictions: metrics.json and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from common.atomic import written_into
from common.console import Console
from common.data.sources.finding import ignored_files
from common.predict.files import SKIPPED, PredictionFile
from common.predict.predictions import Summary
from common.provenance import command
from common.report import plots
from common.report.pages import write_figures
from common.report.prediction import write_report
from common.run.announcement import announce
from mpi_jobs.engine.world import counted_ranks, library
from mpi_jobs.pipeline.layout import Layout, RoleName
from mpi_jobs.pipeline.opened_prediction import OpenedPrediction
from mpi_jobs.pipeline.profile import Profile

MOST_TEAMS = 6
"""The most teams that a picture shows."""
MOST_PREDICTORS = 8
"""The most predictors per team that it shows."""


class PredictionResults(NamedTuple):
    """The results of a run.

    Attributes:
        summary: a summary of the rows that this start of the run has written.
        ranks: one record per rank.
        layout: the roles of all ranks.
        profile: the profile from which the layout follows; None if there was none.
        elapsed_s: seconds from the first image given out to the last row written.
        device: the device of predictors.
        cores: the number of cores of all ranks together.
    """

    summary: Summary
    ranks: Sequence[dict[str, Any]]
    layout: Layout
    profile: Profile | None
    elapsed_s: float
    device: str
    cores: int


def write_results(opened: OpenedPrediction, results: PredictionResults, console: Console) -> None:
    """Write metrics.json and the report, and say where they are.

    Raises:
        RunError: the run folder cannot be written.
    """
    arguments, classes = opened.arguments, opened.model.classes
    summary = results.summary + opened.inputs.summary(len(classes.names))
    record = _record(opened, results, console)
    with written_into(opened.path):
        figures = write_figures(opened.path, {"layout.svg": picture(results)})
        write_report(opened.path, summary, classes.names, record, figures["layout"], opened.inputs.ignored)
    path = PredictionFile.of(arguments.format, opened.path, opened.row_format, classes.written).path
    rate = f", {record['images_per_second']:,.0f} images/s" if results.summary.n else ""
    before = f"; {opened.written:,} of them were there before" if opened.written else ""
    console.say(f"{path}: {opened.written + results.summary.n:,} rows{rate}{before}")
    if opened.inputs.ignored:
        console.say(ignored_files(opened.inputs.ignored))
    if summary.n_skipped:
        console.warn(f"{summary.n_skipped:,} images could not be used; {opened.path / SKIPPED} lists them")
    confusion = summary.confusion
    if confusion.n:
        console.say(
            f"{confusion.accuracy():.4f} of {confusion.n:,} images whose class is known are right, "
            f"macro F1 {confusion.by_class().macro_f1():.4f}{summary.others()}"
        )
    announce(opened.path / "report.html", arguments, console)


def _record(opened: OpenedPrediction, results: PredictionResults, console: Console) -> dict[str, Any]:
    """Return the entries of metrics.json that describe the run."""
    layout, profile = results.layout, results.profile
    return {
        "job": "predict_cnn",
        "engine": f"{library()}, {counted_ranks(len(results.ranks))}",
        "command": f"mpiexec -n {len(results.ranks)} {command()}",
        "model": str(opened.arguments.model),
        "model_sha256": opened.model.digest,
        **opened.model.described(),
        "data": opened.arguments.data,
        "shape": list(opened.inputs.reader.shape),
        "images_per_second": results.summary.n / max(results.elapsed_s, 1e-9),
        "resumed_after": opened.written,
        "way": opened.mode,
        "batch": opened.batch,
        "device": results.device,
        "cores": results.cores,
        "workers": layout.workers,
        "layout": {"text": str(layout), "teams": [list(team.predictors) for team in layout.teams]},
        "profile": None if profile is None else _described(profile, layout, results.cores),
        "ranks": results.ranks,
        "seconds": console.seconds | {"total": console.total_seconds()},
    }


def _described(profile: Profile, layout: Layout, cores: int) -> dict[str, Any]:
    return {
        "seconds": dict(profile.seconds),
        "preprocess": profile.preprocess,
        "predict": profile.predict,
        "rate": profile.rate(layout, cores),
    }


def picture(results: PredictionResults) -> bytes:
    """Draw source, preprocessors, predictors and sink, each as dark as it was busy; return SVG."""
    layout = results.layout
    columns: list[list[str]] = [[], [], [], []]
    arrows: list[plots.Arrow] = []

    def name(rank: int) -> str:
        roles = layout.roles(rank)
        return f"{rank}: " + ("everything" if len(roles) > 2 else ", ".join(roles))

    source, sink = name(layout.source), name(layout.sink)
    columns[0].append(source)
    if sink != source:
        columns[3].append(sink)
    for team in layout.teams[:MOST_TEAMS]:
        predictors = [name(rank) for rank in team.predictors[:MOST_PREDICTORS] if name(rank) != source]
        columns[2] += predictors
        first = source
        if team.preprocessor is not None:
            first = name(team.preprocessor)
            columns[1].append(first)
            arrows.append((source, first))
        for predictor in predictors:
            arrows += [(first, predictor), (predictor, sink)]
    busy = {}
    for rank, record in enumerate(results.ranks):
        if set(layout.roles(rank)) & {RoleName.PREPROCESSOR, RoleName.PREDICTOR}:
            total = sum(record["seconds"].values())
            busy[name(rank)] = min(1.0, 1 - record["seconds"]["wait"] / total) if total else 0.0
    return plots.pipeline([column for column in columns if column], arrows, busy)
