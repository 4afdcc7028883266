"""Fit Spark ML's ridge classifier to generated rows, and write a digest of the model: ml_fit.py FILE."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import col
from pyspark.sql.pandas.functions import pandas_udf

from spark_jobs.ml import RidgeClassifierCV

ROWS, PARTITIONS, D = 6_000, 12, 400


def generate(ids: pd.Series) -> pd.Series:
    """Return rows of bytes that follow from their numbers; slowly, so that there is time to kill an executor."""
    rows = []
    for number in ids:
        rng = np.random.default_rng(int(number))
        for _ in range(100):
            row = rng.integers(0, 200, D, np.uint8)
        row[int(number) % 3] += 50
        rows.append(row.tobytes())
    return pd.Series(rows)


def main() -> None:
    """Fit, and write the digest."""
    session = SparkSession.builder.getOrCreate()
    made = pandas_udf(generate, "binary")
    numbers = session.range(0, ROWS, 1, PARTITIONS)
    frame = numbers.select(made(col("id")).alias("features"), (col("id") % 3).alias("label"))
    model = RidgeClassifierCV(lambdas=[1e3, 1e6], numFolds=3).fit(frame)
    found = hashlib.sha256(model.coefficientMatrix.toArray().tobytes())
    found.update(repr((model.bestLambda, model.cvScores, model.labels)).encode())
    Path(sys.argv[1]).write_text(found.hexdigest())
    session.stop()


if __name__ == "__main__":
    main()
