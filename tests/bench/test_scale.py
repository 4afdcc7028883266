from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.augmented import AugmentingReader, uniform
from common.data.decode import PixelFormat
from common.data.sources.arrays import ArrayReader
from tests.support.jobs import command
from tests.support.places import ROOT

pytestmark = pytest.mark.spark

# two threads instead of a standalone cluster, which tests/spark_jobs uses and which is slower to start
SCALE = """
import sys
from contextlib import nullcontext
from pathlib import Path
from bench import harness, scale
scale.standalone_cluster = lambda *_, **__: nullcontext("local[2]")
scale.SIZES, scale.SMALL, scale.REPEATS, scale.FIGURE = (1_500, 3_000), 3_000, 1, Path("scale.png")
sys.exit(harness.main("", scale.measure))
"""

STRATEGY = """
import sys
from bench import harness, strategy
strategy.REPEATS, strategy.CASES = 1, [("digits", ["--data", "digits", "--lambdas=0:2:3"])]
sys.exit(harness.main("", strategy.measure))
"""


def test_the_number_of_an_image_alone_decides_what_it_is() -> None:
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (10, 28, 28, 1), np.uint8)
    reader = AugmentingReader(ArrayReader.of("some", originals, PixelFormat()), 10)
    numbers = np.arange(40)
    made = reader.read(numbers).pixels
    assert np.array_equal(made[:10], originals)
    assert not np.array_equal(made[10:20], originals)
    assert not np.array_equal(made[10:20], made[20:30])
    order = rng.permutation(40)
    assert np.array_equal(reader.read(numbers[order]).pixels, made[order])
    numbers = uniform(np.arange(100_000))
    assert 0 <= numbers.min() < numbers.max() < 1
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(numbers.T) - np.eye(3)).max() < 0.02


@pytest.mark.mnist
def test_the_scale_benchmark_measures_everything_and_writes_it_down(tmp_path: Path) -> None:
    done = command("python", "-c", SCALE, "--json", "scale.json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "scale.json").read_text())
    assert set(result["measured"]["fits"]) == {"1500", "3000"}
    assert set(result["measured"]["paths"]["summed"]) == {"table", "mapInArrow", "records"}
    assert all(n == 3_000 for n, _ in result["measured"]["predictions"])
    assert len(result["claims"]) == 7
    assert all(claim["claim"] in done.stdout for claim in result["claims"])
    assert (tmp_path / "scale.png").stat().st_size > 5000


def test_the_strategy_benchmark_predicts_and_measures_every_job(tmp_path: Path) -> None:
    done = command("python", "-c", STRATEGY, "--json", "strategy.json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    (case,) = json.loads((tmp_path / "strategy.json").read_text())["measured"].values()
    assert set(case["predicted"]) == {"gram", "outer", "inner"}
    assert case["regret"] >= 1
    assert case["measured"][case["chosen"]] > 0
