"""The ridge classifier by whichever of outer, inner and gram should be fastest here.

`--strategy auto` measures for a second what reading, multiplying, sending and scheduling cost on this cluster,
predicts all three by strategy.py, says why it chose as it did, and runs that job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pyspark.sql import SparkSession

from common.run.flags import Parser, ridge_parser
from common.run.ridge import Experiment
from spark_jobs import gram, inner, outer
from spark_jobs.engine.session import run_spark_job, spark_context
from spark_jobs.engine.strategy import Costs, Work, choose, reasons

JOBS: dict[str, Callable[[Sequence[str]], int]] = {"gram": gram.main, "outer": outer.main, "inner": inner.main}


def without_strategy(argv: Sequence[str] | None) -> list[str]:
    """The flags that are the chosen job's too."""
    parser = Parser(add_help=False)
    parser.add_argument("--strategy")
    return parser.parse_known_args(argv)[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, choose, and run what was chosen in the same Spark session."""
    parser = ridge_parser("Fit a one-vs-all ridge classifier over a grid of λ by the fastest of three strategies.")
    parser.add_argument(
        "--strategy",
        choices=("auto", *JOBS),
        default="auto",
        help="how to go parallel; auto measures and says why",
    )
    arguments = parser.parse_arguments(argv)
    strategy = arguments.strategy
    experiment = Experiment.open("ridge", arguments)
    with spark_context("ridge", experiment.console) as context:
        SparkSession(context)  # which the job will find and use
        if strategy == "auto":
            with experiment.console.phase("measure"):
                work, costs = Work.of(context, experiment), Costs.measure(context, experiment)
                choice = choose(work, costs)
            for line in reasons(choice, work, costs):
                experiment.console.say(line)
            strategy = choice.strategy
        return JOBS[strategy](without_strategy(argv))


if __name__ == "__main__":
    run_spark_job(main)
