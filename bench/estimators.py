"""`python -m bench.estimators PART`: the estimators against those of scikit-learn and of Spark ML.

PART is one of

- `rows`: MomentsRidgeClassifierCV against scikit-learn's RidgeClassifierCV on 48,000 MNIST images and on 50,000
  rows of 1,280 numbers: five folds, and one row left out at a time. The more λ, the larger the ratio, because
  scikit-learn goes over all rows again for each. Five to ten minutes.
- `memory`: the peak memory of fits to an iterator of one and of ten million rows of 256 features.
- `spark`: on 48,000 MNIST images in one warm session, a pipeline of random features and RidgeClassifierCV with ten
  λ in five folds, against Spark's CrossValidator over OneVsRest(LogisticRegression). The latter fits 51 times for
  such a grid; here it fits 5 times (two λ, two folds, and the best), and the seconds of 51 fits follow from these.
  About four minutes.

Data: MNIST under IMAGE_DATA_ROOT (default: data).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bench.harness import Claim, conclude, parser, say, table
from common.data.labelled import open_splits
from common.estimators import MomentsRidgeClassifierCV

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

LAMBDAS = np.logspace(-1, 4, 10)
"""For features from 0 to 1."""

CASES = ((5, 15, 25.0), (None, 10, 6.0), (None, 40, 25.0))
"""Folds (or None to leave out one row at a time), number of λ, and the ratio of times that is claimed."""

IMAGES, ROWS, COLUMNS = 48_000, 50_000, 1_280
MILLION = 1_000_000
FITS = 51
"""Fits of a search over ten λ in five folds, and of the best."""

ROOT = Path(os.environ.get("IMAGE_DATA_ROOT", "data"))


def mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Return training rows and labels, and test rows and labels."""
    train, test = (images.load() for images in open_splits("mnist", data_root=ROOT))
    x, x_test = train.pixels.reshape(len(train.labels), -1), test.pixels.reshape(len(test.labels), -1)
    return x[:IMAGES], train.labels[:IMAGES], x_test, test.labels


def blobs() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return rows of numbers around ten centres, which overlap."""
    rng = np.random.default_rng(0)
    centres, labels = rng.standard_normal((10, COLUMNS)), rng.integers(0, 10, ROWS)
    return (0.06 * centres[labels] + rng.standard_normal((ROWS, COLUMNS))).astype(np.float32), labels


def timed(fit: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a fit takes, and what it returns."""
    started = time.perf_counter()
    found = fit()
    return time.perf_counter() - started, found


def measure_rows() -> tuple[dict[str, Any], list[Claim]]:
    """Fit to the same rows by both estimators."""
    from sklearn.linear_model import RidgeClassifier, RidgeClassifierCV

    pixels, of_pixels, _, _ = mnist()
    numbers, of_numbers = blobs()
    sets: dict[str, tuple[NDArray[Any], NDArray[np.int64], float]] = {
        "MNIST, bytes": (pixels, of_pixels, 255**2),
        "1,280 numbers": (numbers, of_numbers, 1),
    }
    measured, claims, shown = [], [], []
    for name, (x, y, unit) in sets.items():
        as_floats = x.astype(np.float64)
        for folds, n_lambdas, least in CASES:
            what = f"{name}, {'5 folds' if folds else 'one left out'}, {n_lambdas} λ"
            say(what)
            lambdas = unit * np.geomspace(LAMBDAS[0], LAMBDAS[-1], n_lambdas)
            ours = MomentsRidgeClassifierCV(lambdas.tolist(), cv=folds)
            ours_s = min(timed(lambda ours=ours, x=x, y=y: ours.fit(x, y))[0] for _ in range(3))  # type: ignore[misc]
            theirs = RidgeClassifierCV(lambdas, cv=folds)
            theirs_s, _ = timed(lambda theirs=theirs, x=as_floats, y=y: theirs.fit(x, y))  # type: ignore[misc]
            at_ours = RidgeClassifier(ours.lambda_, solver="cholesky").fit(as_floats, y)
            apart = float(np.linalg.norm(at_ours.coef_ - ours.coef_) / np.linalg.norm(at_ours.coef_))
            score = float(np.max(ours.cv_scores_))
            measured.append(
                {"case": what, "ours_s": ours_s, "sklearn_s": theirs_s, "coefficients": apart, "score": score}
            )
            shown.append([what, f"{ours_s:.2f}", f"{theirs_s:.1f}", f"{theirs_s / ours_s:.0f}", f"{apart:.0e}"])
            claims.append(Claim.at_least(f"{what}: scikit-learn's time / ours", theirs_s / ours_s, least))
            claims.append(Claim.at_most(f"{what}: relative difference of coefficients", apart, 1e-8))
            claims.append(
                Claim.at_most(f"{what}: best score, difference", abs(score - float(theirs.best_score_)), 1e-8)
            )
    print(table(["rows", "s", "scikit-learn s", "times", "coefficients differ by"], shown))
    return {"rows": measured}, claims


PEAK = """
import resource, sys
import numpy as np
from common.estimators import MomentsRidgeClassifierCV
n, batch = int(sys.argv[1]), 20_000
rng = np.random.default_rng(0)
base = rng.integers(0, 256, (batch, 256), np.uint8)
def batches():
    for start in range(0, n, batch):
        x = base + np.uint8(start // batch % 251)
        yield x, x[:, 0] // 32
model = MomentsRidgeClassifierCV((1e4, 1e6, 1e8)).fit_batches(batches())
print(model.lambda_, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure_memory() -> tuple[dict[str, Any], list[Claim]]:
    """Fit to iterators of one and of ten million rows, each in a process of its own."""
    measured, shown = [], []
    for millions in (1, 10):
        say(f"{millions} million rows")
        words = [sys.executable, "-c", PEAK, str(millions * MILLION)]
        spent, done = timed(lambda words=words: subprocess.run(words, capture_output=True, text=True, check=True))  # type: ignore[misc]
        peak = float(done.stdout.split()[1])
        measured.append({"millions": millions, "seconds": spent, "peak_mib": peak})
        shown.append([f"{millions} million", f"{spent:.1f}", f"{peak:.0f}"])
    print(table(["rows of 256", "s", "peak MiB"], shown))
    few, many = (of["peak_mib"] for of in measured)
    return {"memory": measured}, [Claim.at_most("peak memory of ten million rows / of one", many / few, 1.2)]


def mnist_frames(session: SparkSession) -> tuple[DataFrame, DataFrame]:
    """Return training and test images, cached, with bytes as `pixels` and vectors as `features`."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql.functions import col

    x, y, x_test, y_test = mnist()
    frames = []
    with tempfile.TemporaryDirectory() as folder:
        for name, pixels, labels in (("train", x, y), ("test", x_test, y_test)):
            columns = {
                "pixels": [row.tobytes() for row in pixels],
                "label": pa.array(labels, pa.float64()),
                "intensities": [row.tolist() for row in pixels / 255],
            }
            pq.write_table(pa.table(columns), f"{folder}/{name}.parquet")
            chosen = [col("pixels"), col("label"), array_to_vector(col("intensities")).alias("features")]
            frames.append(session.read.parquet(f"{folder}/{name}.parquet").select(*chosen).repartition(4).cache())
            frames[-1].count()
    return frames[0], frames[1]


def measure_spark() -> tuple[dict[str, Any], list[Claim]]:
    """Fit to the same rows in one session."""
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression, OneVsRest
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
    from pyspark.sql import SparkSession

    from spark_jobs.engine.session import configuration
    from spark_jobs.ml import FeatureMapTransformer, RidgeClassifierCV

    conf = configuration("bench.estimators", live=False).set("spark.driver.memory", "6g")
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    train, test = mnist_frames(session)
    evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
    ours = Pipeline(
        stages=[
            FeatureMapTransformer(inputCol="pixels", outputCol="map", features="random:1000", shape=[28, 28]),
            RidgeClassifierCV(featuresCol="map", lambdas=list(LAMBDAS * 255**2), numFolds=5),
        ]
    )
    logistic = LogisticRegression(maxIter=20)
    grid = ParamGridBuilder().addGrid(logistic.regParam, [0.001, 0.01]).build()
    theirs = CrossValidator(
        estimator=OneVsRest(classifier=logistic, parallelism=2),
        estimatorParamMaps=grid,
        evaluator=evaluator,
        numFolds=2,
    )
    # in turn, and ours twice, so that the session is warm
    runs = {"ours": [timed(lambda: ours.fit(train)) for _ in range(3)]}
    say("CrossValidator over OneVsRest(LogisticRegression): 5 fits")
    runs["theirs"] = [timed(lambda: theirs.fit(train))]
    ours_s, theirs_s = min(s for s, _ in runs["ours"]), runs["theirs"][0][0]
    accuracies = {name: float(evaluator.evaluate(found[-1][1].transform(test))) for name, found in runs.items()}
    session.stop()
    scaled = theirs_s / 5 * FITS
    rows = [
        ["random:1000 and RidgeClassifierCV, 10 λ, 5 folds", f"{ours_s:.1f}", f"{accuracies['ours']:.4f}"],
        ["CrossValidator, 2 λ, 2 folds: 5 fits", f"{theirs_s:.0f}", f"{accuracies['theirs']:.4f}"],
        ["CrossValidator, 10 λ, 5 folds: 51 fits, reckoned", f"{scaled:.0f}", ""],
    ]
    print(table(["48,000 MNIST images", "s", "test accuracy"], rows))
    claims = [
        Claim.at_least("CrossValidator's time, reckoned / ours", scaled / ours_s, 100),
        Claim.at_least("our accuracy − its", accuracies["ours"] - accuracies["theirs"], 0),
    ]
    return {"ours_s": ours_s, "theirs_s": theirs_s, "reckoned_s": scaled, "accuracies": accuracies}, claims


PARTS = {"rows": measure_rows, "memory": measure_memory, "spark": measure_spark}


def main() -> int:
    """Parse the flags, measure, and conclude."""
    flags = parser(__doc__ or "")
    flags.add_argument("part", choices=PARTS, help="what to measure")
    arguments = flags.parse_args()
    return conclude(arguments, *PARTS[arguments.part]())


if __name__ == "__main__":
    raise SystemExit(main())
