from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import ridge
from spark_jobs.engine.strategy import Costs, Work, choose, reasons
from tests.support.jobs import command, metrics_of
from tests.support.places import ROOT

SMALL = Work(
    n=1500, d=64, n_pixels=64, n_classes=10, n_lambdas=10, n_paths=1, n_scored=300, n_partitions=2, decodes=False
)
COSTS = Costs(
    cores=2,
    stage=0.03,
    read=1e-7,
    multiply=8e-6,
    score=1.5e-7,
    score_alone=3e-7,
    decompose=0.06,
    solve=0.009,
    product=0.015,
    send=5e-9,
)


def test_few_images_go_to_every_worker_and_many_are_dealt_out() -> None:
    few = replace(SMALL, n=1650, d=2400, n_pixels=2400, n_scored=330)
    assert choose(few, replace(COSTS, decompose=1.5, solve=0.2, product=0.5)).strategy == "outer"
    assert choose(replace(SMALL, n=60_000, d=784, n_pixels=784, n_scored=12_000), COSTS).strategy == "gram"
    assert (
        choose(replace(SMALL, n=60_000, d=784, n_pixels=784, n_scored=12_000), replace(COSTS, cores=64)).strategy
        == "gram"
    )


def test_images_that_no_worker_can_hold_are_never_broadcast() -> None:
    work = replace(SMALL, n=10_000_000, d=784, n_pixels=784, n_scored=2_000_000, n_partitions=40)
    choice = choose(work, replace(COSTS, multiply=0, read=0))
    assert choice.seconds["outer"] == float("inf")
    said = "\n".join(reasons(choice, work, COSTS))
    assert "outer impossible" in said
    assert "7.3 GiB" in said


@pytest.mark.parametrize("term", ["n", "n_lambdas", "n_paths", "n_scored"])
def test_more_work_never_takes_less(term: str) -> None:
    more = replace(SMALL, **{term: 10 * getattr(SMALL, term)})
    before, after = choose(SMALL, COSTS).seconds, choose(more, COSTS).seconds
    assert all(after[name] >= before[name] for name in before)


@pytest.mark.spark
def test_costs_are_measured(spark: Any, tmp_path: Path) -> None:
    flags = ["--quiet", "--out", str(tmp_path / "run")]
    problem = RidgeRun.open("test", ridge_parser("").parse_arguments(flags)).problem
    costs, work = Costs.measure(spark, problem), Work.of(spark, problem)
    assert costs.cores == 2
    assert 0.001 < costs.stage < 1
    assert 1e-9 < costs.read < 1e-4
    assert 1e-9 < costs.multiply < 1e-4
    assert costs.score <= costs.score_alone < 1e-4
    assert 0 <= costs.send < 1e-7
    assert (work.n, work.d, work.n_scored, work.n_paths) == (1438, 64, 288, 1)


@pytest.mark.spark
def test_the_entry_says_why_and_runs_what_it_chose(tmp_path: Path) -> None:
    words = ["--lambdas", "-1:3:5", "--strategy", "auto", "--out", "run"]
    done = command("spark-submit", ROOT / "spark_jobs" / "ridge.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("strategy ")
    chosen = first.split()[1].rstrip(":")
    metrics = metrics_of(tmp_path / "run")
    assert metrics["job"] == chosen
    assert len(metrics["lambdas"]) == 5
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path}/run/report.html"


def test_a_strategy_that_is_asked_for_is_run(
    spark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ridge.main(["--strategy=inner", "--lambdas=1", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert not said.startswith("strategy ")
    assert "inner on Spark" in said
