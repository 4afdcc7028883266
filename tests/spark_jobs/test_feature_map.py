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
from common.ridge.gram import Int8Product
from common.ridge.model import RidgeModel
from common.ridge.moments import fingerprint
from common.ridge.moments_file import SavedMoments
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import gram, ingest, inner, outer, predict, serial
from spark_jobs.engine.moments_files import MomentsFiles, basis_of
from tests.support.block_means import BlockMeans, registered
from tests.support.jobs import AGREED, metrics_of, mpiexec, run_main
from tests.support.moments import moments_by_fold
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
    computing_again = replace(problem, most_kept=0)
    fits: dict[str, Callable[[], Fit]] = {
        "serial": lambda: serial.fit(problem),
        "serial, nothing kept": lambda: serial.fit(computing_again),
        "gram": lambda: gram.fit(spark, problem),
        "gram, nothing kept": lambda: gram.fit(spark, computing_again),
        "outer": lambda: outer.fit(spark, problem),
        "outer, nothing kept": lambda: outer.fit(spark, computing_again),
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
        InputError,
        match=r"features block-means \w{8}, and this run has pixels \w{8}, .* --features from:.*m\.npz takes",
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
    # so many that moments are products of 8-bit integers
    chain = "patches:4+random:40+landmarks:500++patches:2,cells=3"
    flags = ["--data", "digits", "--features", chain, "--augment", "shift", "--folds", "3"]
    flags += ["--lambdas", "0.01,1,100"]
    truth = run_main(serial.main, tmp_path / "serial", *flags)
    assert truth["test_accuracy"] > 0.94
    assert truth["products"] == [Int8Product.name]
    assert (truth["features"]["spec"], truth["augment"], truth["n_features"]) == (chain, "shift", 536)
    report = (tmp_path / "serial" / "report.html").read_text()
    for step in (
        "4 filters of 6×6",
        "40 random combinations",
        "similarities to 500 training images",
        "beside these, 2 filters of 6×6",
        'id="filters"',
    ):
        assert step in report
    for partitions in (1, 3, 8):
        out = tmp_path / f"gram{partitions}"
        metrics = run_main(gram.main, out, *flags, "--partitions", str(partitions))
        assert {key: metrics[key] for key in AGREED} == {key: truth[key] for key in AGREED}
        assert metrics["features"] == truth["features"]
        assert metrics["products"] == truth["products"]
        assert metrics["images"] == truth["images"]
    for job in (outer, inner):
        metrics = run_main(job.main, tmp_path / job.__name__, *flags)
        assert metrics["validation_correct"] == truth["validation_correct"]
        assert metrics["products"] == truth["products"]
        assert metrics["images"] == truth["images"]
    for ranks, name in ((1, "data"), (2, "model"), (4, "data")):
        out = tmp_path / f"ranks{ranks}"
        job_file = ROOT / "mpi_jobs" / f"ridge_{name}_parallel.py"
        done = mpiexec(ranks, job_file, *flags, "--quiet", "--out", out, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {key: metrics_of(out)[key] for key in AGREED} == {key: truth[key] for key in AGREED}
        assert metrics_of(out)["products"] == truth["products"]
        assert metrics_of(out)["images"] == truth["images"]
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


def test_moments_of_variants_are_kept_apart(spark: Any, tmp_path: Path) -> None:
    saved = str(tmp_path / "m.npz")
    flags = ["--data", "digits", "--lambdas", "1"]
    first = run_main(gram.main, tmp_path / "a", *flags, "--augment", "shift,flip", "--save-moments", saved)
    again = run_main(gram.main, tmp_path / "b", *flags, "--augment", "flip,shift", "--add-moments", saved)
    assert again["moments_sha256"] == first["moments_sha256"]
    assert again["images"] == first["images"]
    assert again["moments_files"]["added"] == first["images"]["train"] + first["images"]["validation"]
    with pytest.raises(InputError, match="moments of variants shift,flip, and this run has none"):
        run_main(gram.main, tmp_path / "c", *flags, "--add-moments", saved)


def test_auto_says_what_it_chose_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "digits", "--features", "auto", "--lambdas", "0.01,1", "--out", str(tmp_path / "run")]
    assert serial.main(arguments) == 0
    assert "--features patches:64+landmarks:512: 1,150 grey images of 8x8" in capsys.readouterr().out
    metrics = metrics_of(tmp_path / "run")
    assert metrics["features"]["spec"] == "patches:64+landmarks:512"
    assert metrics["test_accuracy"] > 0.97


def test_more_features_than_memory_holds_are_refused_before_they_are_learnt(tmp_path: Path) -> None:
    flags = ["--data", "digits", "--features", "random:30000", "--lambdas", "1"]
    with pytest.raises(InputError, match=r"have 30,000 features: their moments would take 13\.4 GiB"):
        run_main(serial.main, tmp_path / "run", *flags)


def test_a_map_from_a_file_fits_the_images_it_was_learnt_from(tmp_path: Path) -> None:
    flags = ["--data", "digits", "--lambdas", "1"]
    run_main(serial.main, tmp_path / "run", *flags, "--features", "random:16")
    own = f"from:{tmp_path / 'run'}"
    again = run_main(serial.main, tmp_path / "again", *flags, "--features", own)
    assert again["moments_sha256"] == metrics_of(tmp_path / "run")["moments_sha256"]
    with pytest.raises(InputError, match="learnt from images of 8x8x1, and these are 4x16x1"):
        run_main(serial.main, tmp_path / "a", *flags, "--size", "4x16", "--features", own)
    for path in (tmp_path / "run" / "model.npz", tmp_path / "none", tmp_path):
        with pytest.raises(
            InputError, match=r"^--features from:.*: a run of a ridge job, a moments file or a table"
        ):
            run_main(serial.main, tmp_path / "b", *flags, "--features", f"from:{path}")


def test_auto_leaves_out_the_images_that_validate(tmp_path: Path) -> None:
    flags = ["--data", "digits", "--limit", "256", "--lambdas", "1"]
    metrics = run_main(serial.main, tmp_path / "run", *flags, "--validation", "0.6", "--features", "auto")
    assert metrics["features"]["spec"] == "patches:32"
