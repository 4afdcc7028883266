"""What a prediction run leaves in its folder besides the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from common.atomic import written_into
from common.console import Console
from common.predict.files import SKIPPED, PredictionFile
from common.predict.predictions import Summary
from common.provenance import command
from common.report import plots
from common.report.prediction import write_report
from common.report.ridge import write_figures
from mpi_jobs.engine.world import counted_ranks, library
from mpi_jobs.pipeline.layout import Kind, Layout
from mpi_jobs.pipeline.opening import Opened
from mpi_jobs.pipeline.profile import Profile

MOST_TEAMS = 6
"""Teams that a picture shows."""
MOST_PREDICTORS = 8
"""Predictors of a team that it shows."""


class Results(NamedTuple):
    """What came of a run.

    Attributes:
        summary: of the rows that this start has written.
        ranks: a record of each.
        layout: who did what.
        profile: that the layout follows from; None where there was none.
        flow_s: seconds from the first image to the last row.
        device: of predictors.
        cores: that all ranks had.
    """

    summary: Summary
    ranks: Sequence[dict[str, Any]]
    layout: Layout
    profile: Profile | None
    flow_s: float
    device: str
    cores: int


def write_results(opened: Opened, results: Results, console: Console) -> None:
    """Write metrics.json and the report, and say where they are.

    Raises:
        InputError: the folder cannot be written.
    """
    arguments, model, profile = opened.arguments, opened.model, results.profile
    summary = results.summary + opened.inputs.summary(len(model.classes.names))
    described: dict[str, Any] = {
        "job": "predict_cnn",
        "engine": f"{library()}, {counted_ranks(len(results.ranks))}",
        "command": f"mpiexec -n {len(results.ranks)} {command()}",
        "model": str(arguments.model),
        "model_sha256": model.digest,
        "network": model.spec.name,
        "data": arguments.data,
        "shape": list(opened.inputs.reader.shape),
        "images_per_second": results.summary.n / max(results.flow_s, 1e-9),
        "resumed_after": opened.written,
        "way": opened.way,
        "batch": opened.batch,
        "device": results.device,
        "cores": results.cores,
        "workers": results.layout.workers,
        "layout": {"text": str(results.layout), "teams": [list(team.predictors) for team in results.layout.teams]},
        "profile": None if profile is None else _told(profile, results.layout, results.cores),
        "ranks": results.ranks,
        "seconds": console.seconds | {"total": console.total_seconds()},
    }
    with written_into(opened.path):
        figures = write_figures(opened.path, {"layout.svg": picture(results)})
        write_report(opened.path, summary, model.classes.names, described, figures["layout"])
    path = PredictionFile.of(arguments.format, opened.path, opened.form, model.classes.written).path
    rate = f", {described['images_per_second']:,.0f} images/s" if results.summary.n else ""
    before = f"; {opened.written:,} of them were there before" if opened.written else ""
    console.say(f"{path}: {opened.written + results.summary.n:,} rows{rate}{before}")
    if summary.n_unusable:
        console.warn(f"{summary.n_unusable:,} images could not be used; {opened.path / SKIPPED} lists them")
    confusion = summary.confusion
    if confusion.n:
        console.say(
            f"{confusion.accuracy():.4f} of {confusion.n:,} images whose class is known are right, "
            f"macro F1 {confusion.by_class().macro_f1():.4f}"
        )
    print(f"report: {opened.path / 'report.html'}")


def _told(profile: Profile, layout: Layout, cores: int) -> dict[str, Any]:
    return {
        "seconds": dict(profile.seconds),
        "preprocess": profile.preprocess,
        "predict": profile.predict,
        "rate": profile.rate(layout, cores),
    }


def picture(results: Results) -> bytes:
    """Source, preprocessors, predictors and sink, each as dark as it was busy; SVG."""
    layout = results.layout
    columns: list[list[str]] = [[], [], [], []]
    arrows: list[plots.Arrow] = []

    def name(rank: int) -> str:
        kinds = layout.kinds(rank)
        return f"{rank}: " + ("everything" if len(kinds) > 2 else ", ".join(kinds))

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
        if set(layout.kinds(rank)) & {Kind.PREPROCESSOR, Kind.PREDICTOR}:
            total = sum(record["seconds"].values())
            busy[name(rank)] = min(1.0, 1 - record["seconds"]["wait"] / total) if total else 0.0
    return plots.pipeline([column for column in columns if column], arrows, busy)
