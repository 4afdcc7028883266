"""One answer: serial, Spark and MPI at any number of ranks; tests/mpi has more of it at a few."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.ridge.model import RidgeModel
from spark_jobs import gram, serial
from tests.support.jobs import AGREED, metrics_of, mpiexec, run_main
from tests.support.places import ROOT

pytestmark = pytest.mark.slow

DATA_PARALLEL = ROOT / "mpi_jobs" / "ridge_data_parallel.py"
MODEL_PARALLEL = ROOT / "mpi_jobs" / "ridge_model_parallel.py"
JOBS = [DATA_PARALLEL, MODEL_PARALLEL]


def run(job: Path, ranks: int, out: Path, *flags: str, mpi: str = "mpich") -> dict[str, Any]:
    """Run a job of this project on ranks: its metrics."""
    done = mpiexec(ranks, job, *flags, "--quiet", "--out", out, cwd=ROOT, mpi=mpi)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"report: {out / 'report.html'}"]
    return metrics_of(out)


def assert_same(found: dict[str, Any], expected: dict[str, Any], keys: Sequence[str] = AGREED) -> None:
    for key in keys:
        assert found[key] == expected[key], key


def assert_same_model(found: Path, expected: Path) -> None:
    a, b = RidgeModel.load(found), RidgeModel.load(expected)
    assert np.abs(a.weights - b.weights).max() <= 1e-6 * np.abs(b.weights).max()
    assert np.abs(a.intercept - b.intercept).max() <= 1e-6 * np.abs(b.intercept).max()


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
@pytest.mark.parametrize(
    ("ranks", "flags"),
    [
        (7, ["--lambdas", "10,100"]),  # more ranks than λ, and a prime number of them
        (7, ["--limit", "5"]),  # ranks without an image
    ],
)
def test_odd_numbers(tmp_path: Path, job: Path, ranks: int, flags: list[str]) -> None:
    expected = run_main(serial.main, tmp_path / "serial", *flags)
    found = run(job, ranks, tmp_path / "mpi", *flags)
    assert_same(found, expected)
    assert_same_model(tmp_path / "mpi", tmp_path / "serial")


@pytest.mark.mnist
@pytest.mark.spark
@pytest.mark.parametrize(
    ("flags", "data_ranks", "model_ranks"),
    [([], (2, 7), (3,)), (["--folds", "3", "--lambdas", "-2:4:4", "--limit", "15000"], (4,), (2,))],
    ids=["holdout", "folds"],
)
def test_mnist_at_any_number_of_ranks(
    spark: Any,
    tmp_path: Path,
    data_root: Path,
    flags: list[str],
    data_ranks: Sequence[int],
    model_ranks: Sequence[int],
    serial_mnist: Path,
) -> None:
    default, flags = not flags, ["--data", "mnist", "--data-root", str(data_root), *flags]
    if default:
        (tmp_path / "serial").symlink_to(serial_mnist)
    else:
        run_main(serial.main, tmp_path / "serial", *flags)
    expected = metrics_of(tmp_path / "serial")
    assert_same(run_main(gram.main, tmp_path / "gram", *flags), expected)
    for ranks in data_ranks:
        found = run(DATA_PARALLEL, ranks, tmp_path / f"data{ranks}", *flags, "--threads", "1")
        assert_same(found, expected)
    for ranks in model_ranks:
        found = run(MODEL_PARALLEL, ranks, tmp_path / f"model{ranks}", *flags, "--threads", "1")
        assert_same(found, expected)
        assert_same_model(tmp_path / f"model{ranks}", tmp_path / "serial")


@pytest.mark.hands
def test_hand_photographs(tmp_path: Path, data_root: Path) -> None:
    flags = ["--data", f"folder:{data_root / 'hands'}", "--size", "20x30", "--grey"]
    expected = run_main(serial.main, tmp_path / "serial", *flags)
    assert_same(run(DATA_PARALLEL, 2, tmp_path / "mpi", *flags), expected)


def test_an_average_is_told_from_the_exact_model(tmp_path: Path) -> None:
    exact = run(DATA_PARALLEL, 4, tmp_path / "exact")
    found = run(DATA_PARALLEL, 4, tmp_path / "average", "--combine", "average")
    assert found["exact"]["best_lambda"] == exact["best_lambda"]
    assert found["exact"]["test_accuracy"] == exact["test_accuracy"]
    assert found["exact"]["validation_correct"] == exact["validation_correct"]
    assert found["validation_correct"] != exact["validation_correct"]
    assert abs(found["test_accuracy"] - exact["test_accuracy"]) < 0.05
    assert "Approximate:" in (tmp_path / "average" / "report.html").read_text()
    assert "Approximate:" not in (tmp_path / "exact" / "report.html").read_text()


def test_an_average_of_one_rank_is_the_exact_model(tmp_path: Path) -> None:
    expected = run_main(serial.main, tmp_path / "serial")
    assert_same(run(DATA_PARALLEL, 1, tmp_path / "average", "--combine", "average"), expected)


def test_an_average_warns_of_ranks_that_saw_too_little(tmp_path: Path) -> None:
    flags = ["--combine", "average", "--limit", "5", "--out", str(tmp_path / "run")]
    done = mpiexec(7, DATA_PARALLEL, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 of 7 ranks had no training image" in done.stderr
    assert "5 of 7 ranks have not seen an image of every class" in done.stderr
    assert "approximation" in done.stdout
