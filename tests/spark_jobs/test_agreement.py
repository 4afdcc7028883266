"""Four jobs, one answer: on bundled digits, a folder, Herbarium metadata, MNIST and the hand photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from common.data.images import Block
from common.errors import InputError
from common.features.augmentation import AS_IT_IS
from common.features.pixels import PIXELS
from common.ridge.fit import Problem
from common.ridge.model import RidgeModel
from common.ridge.moments import Moments, training_moments
from common.ridge.path import Spectrum, ridge_fit, ridge_path
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from spark_jobs import gram, inner, outer, serial
from spark_jobs.engine.blocks import image_blocks, reduce_moments, tree_reduce
from spark_jobs.engine.lambda_tasks import Training, worker_state
from tests.support.herbarium import herbarium
from tests.support.jobs import AGREED, metrics_of, run_main
from tests.support.moments import assert_identical, moments_by_fold

pytestmark = pytest.mark.spark

Job = Callable[[Sequence[str]], int]
JOBS: dict[str, Job] = {"serial": serial.main, "outer": outer.main, "inner": inner.main, "gram": gram.main}


def run_all(folder: Path, *flags: str, jobs: Sequence[str] = tuple(JOBS)) -> dict[str, Any]:
    """Run the jobs that have no run folder yet, check that all agree, and return the metrics of the first."""
    for name in jobs:
        if not (folder / name).exists():
            run_main(JOBS[name], folder / name, *flags)
    runs = {name: metrics_of(folder / name) for name in jobs}
    first = runs[jobs[0]]
    for name, metrics in runs.items():
        for key in AGREED:
            if name != "outer" or key != "moments_sha256":  # outer keeps its moments on the workers
                assert metrics[key] == first[key], (name, key)
    reference = RidgeModel.load(folder / jobs[0])
    for name in jobs[1:]:
        model = RidgeModel.load(folder / name)
        assert np.abs(model.weights - reference.weights).max() <= 1e-6 * np.abs(reference.weights).max()
    return first


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--folds", "4", "--lambdas", "0:3:3"],
        ["--penalty", "mean", "--lambdas", "-6:2:5"],
        ["--penalty", "scaled", "--lambdas", "0.001,0.1"],
    ],
)
def test_digits(spark: Any, tmp_path: Path, flags: list[str]) -> None:
    metrics = run_all(tmp_path, *flags)
    assert metrics["test_accuracy"] > 0.9
    if "--folds" in flags:
        assert metrics["images"]["validation"] == metrics["images"]["train"] == 1438


def test_a_limit_a_seed_and_a_size(spark: Any, tmp_path: Path) -> None:
    flags = ["--limit", "500", "--seed", "9", "--size", "6x7", "--binarize", "0.4", "--lambdas", "0,1"]
    metrics = run_all(tmp_path, *flags)
    assert metrics["images"] == {
        "train": 400,
        "validation": 100,
        "test": 359,
        "skipped": 0,
        "quarantined": 0,
        "ignored": 0,
    }
    assert metrics["shape"] == [6, 7, 1]


def test_a_folder_with_an_image_that_cannot_be_used(spark: Any, tmp_path: Path, folder_of_images: Path) -> None:
    (folder_of_images / "cedar" / "11.png").write_bytes(b"damaged")
    flags = ["--data", f"folder:{folder_of_images}", "--max-corrupt", "0.1"]
    metrics = run_all(tmp_path, *flags)
    assert metrics["images"]["skipped"] == 1
    assert metrics["test_accuracy"] == 1.0
    for name in JOBS:
        assert "cedar/11.png" in (tmp_path / name / "skipped.csv").read_text()


@pytest.mark.parametrize("job", ["outer", "inner", "gram"])
def test_too_many_unusable_images_stop_every_engine(
    spark: Any, tmp_path: Path, folder_of_images: Path, job: str
) -> None:
    (folder_of_images / "cedar" / "11.png").write_bytes(b"damaged")
    flags = ["--data", f"folder:{folder_of_images}", "--quiet", "--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match=r"1 of .* images cannot be used"):
        JOBS[job](flags)
    for path in folder_of_images.rglob("1*.png"):
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="no usable image is left"):
        JOBS[job]([*flags, "--max-corrupt", "1", "--folds", "30"])
    assert not (tmp_path / "run").exists()


def test_every_partition_has_its_share_to_validate(spark: Any) -> None:
    train = RidgeRun.open("test", ridge_parser("").parse_arguments(["--quiet"])).problem.images
    blocks = image_blocks(spark, train, 8)
    validating = blocks.mapPartitions(lambda part: [sum((block.folds == 0).sum() for block in part)]).collect()
    assert sum(validating) == (train.load().folds == 0).sum()
    assert max(validating) - min(validating) <= 1
    names = image_blocks(spark, train, 8, names=True).flatMap(lambda block: block.names or []).collect()
    assert sorted(names) == sorted(train.load(names=True).names or [])
    assert len(set(names)) == len(train)


def test_herbarium(spark: Any, tmp_path: Path) -> None:
    herbarium(tmp_path / "h")
    metrics = run_all(tmp_path, "--data", f"herbarium:{tmp_path / 'h'}")
    assert metrics["classes"] == ["Séneçon", "Abies"]


def test_more_partitions_than_images(spark: Any, tmp_path: Path) -> None:
    data = ["--limit", "10", "--test", "0.006", "--lambdas", "1"]
    few = run_main(gram.main, tmp_path / "few", *data, "--partitions", "1")
    many = run_main(gram.main, tmp_path / "many", *data, "--partitions", "14")
    assert many["validation_correct"] == few["validation_correct"]
    assert many["test_accuracy"] == few["test_accuracy"]


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 9, 30])
def test_the_tree_reduction_adds_everything_once(spark: Any, partitions: int) -> None:
    numbers = spark.parallelize(range(partitions), partitions)
    assert tree_reduce(numbers.map(lambda i: [i]), lambda a, b: sorted(a + b)) == list(range(partitions))


@pytest.mark.mnist
def test_mnist(spark: Any, tmp_path: Path, data_root: Path, serial_mnist: Path) -> None:
    (tmp_path / "serial").symlink_to(serial_mnist)
    metrics = run_all(tmp_path, "--data", "mnist", "--data-root", str(data_root))
    assert 0.855 <= metrics["test_accuracy"] <= 0.870
    assert metrics["images"] == {
        "train": 48_000,
        "validation": 12_000,
        "test": 10_000,
        "skipped": 0,
        "quarantined": 0,
        "ignored": 0,
    }


@pytest.fixture(scope="module")
def mnist(data_root: Path) -> tuple[Problem, Training]:
    flags = ["--data", "mnist", "--data-root", str(data_root), "--quiet"]
    problem = RidgeRun.open("test", ridge_parser("").parse_arguments(flags)).problem
    return problem, Training.of(problem, problem.images.load())


@pytest.mark.mnist
def test_moments_are_the_same_bits_in_every_job_at_every_partitioning(
    spark: Any, mnist: tuple[Problem, Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, training = mnist
    images = training.images
    expected = moments_by_fold(images.pixels, images.labels, images.folds, 10)  # as serial does
    shared = spark.broadcast(training)
    in_worker = (
        spark.parallelize([0], 1).map(lambda _: worker_state(shared.value).moments).first()
    )  # as outer does
    reduced = [in_worker]
    for partitions, gathered in (
        (1, 1 << 30),
        (3, 1 << 30),
        (8, 1 << 30),
        (8, 1),
    ):  # as inner and gram do, added here or in a tree
        monkeypatch.setattr("spark_jobs.engine.blocks.GATHERED_BYTES", gathered)
        blocks = image_blocks(spark, problem.images, partitions)
        assert blocks.getNumPartitions() == partitions
        moments, _, skipped = reduce_moments(blocks, problem)
        blocks.unpersist()
        assert not skipped
        reduced.append(moments)
    for moments in reduced:
        assert sorted(moments) == sorted(expected) == [-1, 0]
        for fold, own in expected.items():
            assert_identical(moments[fold], own)


@pytest.mark.mnist
def test_weights_agree_with_scikit_learn_at_every_lambda(spark: Any, mnist: tuple[Problem, Training]) -> None:
    problem, training = mnist
    # every third image, because scikit-learn sums all of them anew for each λ
    pixels, labels, folds = (column[::3] for column in training.images[:3])
    own = training_moments(moments_by_fold(pixels, labels, folds, 10))[0]
    path = ridge_path(own, problem.lambdas)  # serial, gram
    spectrum = spark.broadcast(Spectrum.of(*own.centred()))
    kept = folds != 0
    x = pixels[kept].reshape(own.n, -1) / 255
    y = np.where(labels[kept][:, None] == np.arange(10), 1.0, -1.0)
    for i, lambda_ in enumerate(problem.lambdas):
        truth = Ridge(alpha=lambda_, solver="cholesky").fit(x, y)
        by_rows = inner.fit_by_rows(spark, own, spectrum, lambda_, "sum")
        fits = {"path": path.weights[i], "outer": ridge_fit(own, lambda_).weights[0], "inner": by_rows.weights[0]}
        for name, weights in fits.items():
            error = np.abs(weights - truth.coef_.T).max() / np.abs(truth.coef_).max()
            assert error < 1e-6, (name, lambda_, error)
        np.testing.assert_allclose(path.intercepts[i], truth.intercept_, rtol=1e-6)


@pytest.mark.hands
def test_hand_photographs(spark: Any, tmp_path: Path, data_root: Path) -> None:
    data = f"folder:{data_root / 'hands'}"
    metrics = run_all(tmp_path, "--data", data, "--size", "28x42", "--grey", "--lambdas", "2:4:3")
    assert metrics["test_accuracy"] >= 0.68
    assert metrics["shape"] == [28, 42, 1]
    assert len(metrics["classes"]) == 10


@pytest.mark.hands
def test_hand_photographs_of_zero_to_five_in_black_and_white(spark: Any, tmp_path: Path, data_root: Path) -> None:
    (tmp_path / "hands").mkdir()
    for digit in range(6):
        (tmp_path / "hands" / str(digit)).symlink_to(data_root / "hands" / str(digit))
    data = f"folder:{tmp_path / 'hands'}"
    metrics = run_all(tmp_path, "--data", data, "--size", "20x30", "--binarize", "0.5", "--lambdas", "1:3:3")
    assert metrics["test_accuracy"] >= 0.6
    assert metrics["classes"] == list("012345")


def test_no_job_leaves_moments_of_another_run_in_a_worker(spark: Any) -> None:
    """Two broadcasts of different images in one session: each worker keeps the moments of the right one."""
    rng = np.random.default_rng(0)
    for _ in range(2):
        pixels = rng.integers(0, 256, (50, 2, 2, 1), np.uint8)
        images = Block(pixels, rng.integers(0, 2, 50), np.zeros(50, np.int16), None, [])
        shared = spark.broadcast(Training(images, 2, PIXELS, AS_IT_IS, "sum", keeps=False))
        found = spark.parallelize(range(4), 4).map(lambda _, s=shared: worker_state(s.value).moments[0]).collect()
        for moments in found:
            assert_identical(moments, Moments.of(images.pixels, images.labels, 2))
