"""A feature map that is not the pixels, through every engine, through files, and to the report."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.images import Block
from common.errors import InputError
from common.features.pixels import PIXELS
from common.ridge.fit import Fit, Problem
from common.ridge.model import RidgeModel
from common.ridge.moments import fingerprint, moments_by_fold
from common.ridge.moments_file import SavedMoments
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import gram, ingest, inner, outer, predict, serial
from spark_jobs.engine.moments_files import MomentsFiles, basis_of
from tests.support.block_means import BlockMeans, registered
from tests.support.jobs import AGREED, metrics_of, mpiexec, run_main
from tests.support.places import ROOT

pytestmark = pytest.mark.spark

FEATURES = BlockMeans()


def open_run(out: Path, *flags: str) -> RidgeRun:
    run = RidgeRun.open("test", ridge_parser("").parse_arguments([*flags, "--quiet", "--out", str(out)]))
    return replace(run, problem=replace(run.problem, features=FEATURES))


@pytest.fixture(params=[(), ("--folds", "3")])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> RidgeRun:
    """Digits of 8×8 pixels, and 16 features each."""
    return open_run(tmp_path / "run", "--lambdas", "0:4:5", *request.param)


def pooled_by_hand(problem: Problem) -> str:
    """Return the fingerprint of the moments of images that were pooled beforehand."""
    train: Block = problem.images.load()
    return fingerprint(moments_by_fold(FEATURES.pool(train.pixels), train.labels, train.folds, problem.n_classes))


def test_every_engine_fits_features_and_not_pixels(spark: Any, run: RidgeRun) -> None:
    problem = run.problem
    fits: dict[str, Callable[[], Fit]] = {
        "serial": lambda: serial.fit(problem),
        "gram": lambda: gram.fit(spark, problem),
        "outer": lambda: outer.fit(spark, problem),
        "inner": lambda: inner.fit(spark, problem),
    }
    found = {name: fit() for name, fit in fits.items()}
    expected = found["serial"]
    assert problem.n_features == 16
    assert expected.model.weights.shape == (16, 10)
    for name, fit in found.items():
        assert fit.correct.tolist() == expected.correct.tolist(), name
        assert fit.model.lambda_ == expected.model.lambda_, name
        np.testing.assert_allclose(fit.model.weights, expected.model.weights, rtol=1e-6, atol=1e-9)
        if fit.moments is not None:
            assert fingerprint(fit.moments) == pooled_by_hand(problem), name
    assert found["outer"].moments is None


def test_a_run_is_saved_loaded_and_predicts_on_spark(spark: Any, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "--lambdas", "1")
    fit = serial.fit(run.problem)
    test = run.load_test()
    run.finish(serial.Engine("one process", 1, 1), fit, run.evaluate(fit.model, test))
    with pytest.raises(InputError, match="features of kind 'block-means'"):
        RidgeModel.load(tmp_path / "run")
    report = (tmp_path / "run" / "report.html").read_text()
    assert "block-means" in report
    assert "The weights as images" not in report
    with registered():
        model = RidgeModel.load(tmp_path / "run")
        assert model.features.digest == FEATURES.digest
        assert np.array_equal(model.predict(test.pixels), fit.model.predict(test.pixels))
        flags = ["--model", str(tmp_path / "run"), "--data", "digits", "--format", "csv", "--quiet"]
        assert predict.main([*flags, "--out", str(tmp_path / "predicted")]) == 0
    rows = list(csv.DictReader((tmp_path / "predicted" / "predictions.csv").open()))
    predicted = {row["Id"]: row["Predicted"] for row in rows}
    classes = fit.model.predict(test.pixels)
    assert all(
        predicted[str(name)] == model.class_names[label]
        for name, label in zip(test.names or (), classes, strict=True)
    )


def test_moments_files_keep_the_map_and_refuse_to_mix(spark: Any, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "--lambdas", "1")
    basis = basis_of(run.problem, run.split)
    fit = gram.fit(spark, run.problem, files=MomentsFiles(basis, [], [], tmp_path / "m.npz"))
    with registered():
        saved = SavedMoments.load(tmp_path / "m.npz")
    assert saved.basis.features.digest == FEATURES.digest
    assert fit.moments is not None
    assert fingerprint(saved.moments) == fingerprint(fit.moments)
    again = gram.fit(spark, run.problem, files=MomentsFiles(basis, [saved], [], None))
    assert again.moments is not None
    assert fingerprint(again.moments) == fingerprint(fit.moments)
    of_pixels = basis_of(replace(run.problem, features=PIXELS), run.split)
    with pytest.raises(
        InputError, match=r'features \{"kind": "block-means"\}, and this run has \{"kind": "pixels"'
    ):
        saved.basis.check_equal(tmp_path / "m.npz", of_pixels)


def test_moments_files_refuse_a_map_that_is_not_exact(tmp_path: Path) -> None:
    flags = ["--quiet", "--out", str(tmp_path / "run"), "--save-moments", str(tmp_path / "m.npz")]
    run = RidgeRun.open("gram", gram.parser().parse_arguments(flags))
    inexact = replace(run, problem=replace(run.problem, features=BlockMeans(exact=False)))
    with pytest.raises(InputError, match="features block-means are not exact"):
        MomentsFiles.open(inexact)
    assert MomentsFiles.open(run).target == tmp_path / "m.npz"


def test_every_job_learns_the_same_map_and_finds_the_same_fingerprint(spark: Any, tmp_path: Path) -> None:
    flags = ["--data", "digits", "--features", "patches:4+landmarks:60", "--lambdas", "0.01,1,100", "--folds", "3"]
    truth = run_main(serial.main, tmp_path / "serial", *flags)
    assert truth["test_accuracy"] > 0.94
    for partitions in (1, 3, 8):
        out = tmp_path / f"gram{partitions}"
        metrics = run_main(gram.main, out, *flags, "--partitions", str(partitions))
        assert {key: metrics[key] for key in AGREED} == {key: truth[key] for key in AGREED}
        assert metrics["features"] == truth["features"]
    for job in (outer, inner):
        metrics = run_main(job.main, tmp_path / job.__name__, *flags)
        assert metrics["validation_correct"] == truth["validation_correct"]
    for ranks, name in ((1, "data"), (2, "model"), (4, "data")):
        out = tmp_path / f"ranks{ranks}"
        job_file = ROOT / "mpi_jobs" / f"ridge_{name}_parallel.py"
        done = mpiexec(ranks, job_file, *flags, "--quiet", "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {key: metrics_of(out)[key] for key in AGREED} == {key: truth[key] for key in AGREED}
    predicted = run_main(
        predict.main, tmp_path / "predicted", "--model", str(tmp_path / "serial"), "--data", "digits"
    )
    assert predicted["accuracy"] > 0.94


def test_a_table_learns_from_its_training_images(spark: Any, tmp_path: Path) -> None:
    assert ingest.main(["digits", str(tmp_path / "table"), "--quiet"]) == 0
    flags = ["--data", f"parquet:{tmp_path / 'table'}", "--features", "patches:4", "--lambdas", "1,100"]
    truth = run_main(serial.main, tmp_path / "serial", *flags)
    assert truth["test_accuracy"] > 0.95
    moments = str(tmp_path / "m.npz")
    metrics = run_main(gram.main, tmp_path / "gram", *flags, "--save-moments", moments)
    assert metrics["moments_sha256"] == truth["moments_sha256"]
    for source in (moments, tmp_path / "serial"):  # the map that others have learnt
        own = [*flags[:2], "--features", f"from:{source}", "--lambdas", "1,100", "--add-moments", moments]
        again = run_main(gram.main, tmp_path / f"again{Path(source).suffix}", *own)
        assert again["moments_sha256"] == truth["moments_sha256"]
    with pytest.raises(InputError, match="moments of the features"):
        run_main(gram.main, tmp_path / "mixed", *flags[:2], "--lambdas", "1", "--add-moments", moments)
