"""The ridge classifier by the fastest of gram, outer and inner.

`--strategy auto` measures for a second what reading, multiplying, sending and scheduling cost on this cluster. It
predicts the times of all three from that (engine/strategy.py), says why it chose, and calls the chosen `fit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyspark import SparkContext

from common.console import Console
from common.ridge.fit import Fit, Problem
from common.run.flags import ridge_parser
from common.run.parser import Parser
from common.run.ridge import RidgeRun
from spark_jobs import gram, inner, outer
from spark_jobs.engine.passes import score_test_images
from spark_jobs.engine.session import engine, run_spark_job, spark_context
from spark_jobs.engine.strategy import Costs, Work, choose, reasons

FITS: dict[str, Callable[[SparkContext, Problem, Console], Fit]] = {
    "gram": lambda context, problem, console: gram.fit(context, problem, console=console),
    "outer": outer.fit,
    "inner": lambda context, problem, console: inner.fit(context, problem, console=console),
}


def choose_strategy(context: SparkContext, problem: Problem, console: Console) -> str:
    """Measure, predict, print the reasons, and return the name of the fastest strategy."""
    with console.phase("measure"):
        work, costs = Work.of(context, problem), Costs.measure(context, problem)
        choice = choose(work, costs)
    for line in reasons(choice, work, costs):
        console.say(line)
    return choice.strategy


def parser() -> Parser:
    """Return the parser of this job's flags."""
    flags = ridge_parser("Fit a one-vs-all ridge classifier over a grid of λ by the fastest of three strategies.")
    flags.add_argument(
        "--strategy",
        choices=("auto", *FITS),
        default="auto",
        help="how to go parallel; auto measures and says why",
    )
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, open, choose, fit, write the run folder."""
    run = RidgeRun.open("ridge", parser().parse_arguments(argv))
    strategy = run.arguments.strategy
    with spark_context("ridge", run.console) as context:
        if strategy == "auto":
            strategy = choose_strategy(context, run.problem, run.console)
        run = run.as_job(strategy)
        fitted = FITS[strategy](context, run.problem, run.console)
        if strategy == "outer":  # which needs no executor that sees the images
            tested = run.evaluate(fitted.model, run.load_test())
        else:
            tested = score_test_images(context, run, fitted.model)
        run.finish(engine(context), fitted, tested)
    return 0


if __name__ == "__main__":
    run_spark_job(main)
