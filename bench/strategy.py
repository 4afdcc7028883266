"""`python -m bench.strategy`: how well `ridge.py --strategy auto` chooses.

For each case outer, inner and gram are measured in a warm Spark session. The cost model, whose
constants are measured in the same session, predicts their times. The claim bounds the time of the chosen job over
the time of the fastest.
"""

from __future__ import annotations

import statistics
from typing import Any

from pyspark.sql import SparkSession

from bench.harness import Claim, main, say, table
from bench.jobs import Job, run, work
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import gram, inner, outer
from spark_jobs.engine.session import configuration
from spark_jobs.engine.strategy import Costs, Work, choose

REPEATS = 3
MOST_INNER_S = 10.0
"""Predicted seconds beyond which inner, which then loses anyway, is not measured."""

JOBS: dict[str, Job] = {"gram": gram.main, "outer": outer.main, "inner": inner.main}
CASES: list[tuple[str, list[str]]] = [
    ("digits", ["--data", "digits"]),
    ("digits, 10 folds, 50 λ", ["--data", "digits", "--folds", "10", "--lambdas=-3:5:50"]),
    ("MNIST, 2,000 images", ["--data", "mnist", "--limit", "2000"]),
    ("MNIST, 20,000 images", ["--data", "mnist", "--limit", "20000"]),
    ("MNIST", ["--data", "mnist"]),
    ("MNIST, 5 folds", ["--data", "mnist", "--folds", "5"]),
    ("MNIST at 14×14, 40 λ", ["--data", "mnist", "--size", "14x14", "--lambdas=-5:5:40"]),
]


def measure_case(session: SparkSession, flags: list[str]) -> dict[str, Any]:
    """Predict and measure the seconds of each job."""
    arguments = ridge_parser("").parse_arguments([*flags, "--quiet"])
    problem = RidgeRun.open("bench", arguments).problem
    context = session.sparkContext
    choice = choose(Work.of(context, problem), Costs.measure(context, problem))
    measured = {}
    for name, job in JOBS.items():
        if name == "inner" and choice.seconds[name] > MOST_INNER_S:
            continue
        times = [work(run(job, *flags)) for _ in range(REPEATS + 1)]
        measured[name] = statistics.median(times[1:])
    best = min(measured.values())
    chosen = measured[choice.strategy]
    return {"chosen": choice.strategy, "predicted": choice.seconds, "measured": measured, "regret": chosen / best}


def measure() -> tuple[dict[str, Any], list[Claim]]:
    """Measure all cases, print the table and return what was measured and the claims."""
    session = SparkSession.builder.config(conf=configuration("bench", live=False)).getOrCreate()
    rows: dict[str, dict[str, Any]] = {}
    for name, flags in CASES:
        say(name)
        rows[name] = measure_case(session, flags)
    session.stop()
    cells = []
    for name, row in rows.items():
        predicted, measured = row["predicted"], row["measured"]
        measured_s = {job: f"{measured[job]:.2f}" if job in measured else "not measured" for job in JOBS}
        seconds = [f"{predicted[job]:.2f} / {measured_s[job]}" for job in JOBS]
        cells.append([name, *seconds, row["chosen"], f"{row['regret']:.2f}"])
    print(table(["case", *(f"{job}: predicted / measured s" for job in JOBS), "auto", "auto / best"], cells))
    worst = max(row["regret"] for row in rows.values())
    return rows, [Claim.at_most("the chosen job / the fastest, worst case", worst, 1.5)]


if __name__ == "__main__":
    raise SystemExit(main(__doc__ or "", measure))
