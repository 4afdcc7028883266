from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.jobs import command
from tests.support.places import DATA, ROOT

SMALL = """
from bench import estimators
estimators.IMAGES, estimators.ROWS, estimators.COLUMNS, estimators.MILLION = 1_500, 2_000, 60, 40_000
raise SystemExit(estimators.main())
"""


def measured(tmp_path: Path, part: str) -> dict[str, object]:
    words = ["python", "-c", SMALL, part, "--json", "out.json"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT), IMAGE_DATA_ROOT=str(DATA))
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, object] = json.loads((tmp_path / "out.json").read_text())["measured"]
    return found


@pytest.mark.mnist
def test_the_benchmark_of_rows_compares_the_same_models(tmp_path: Path) -> None:
    rows = measured(tmp_path, "rows")["rows"]
    assert isinstance(rows, list)
    assert len(rows) == 6
    assert all(row["coefficients"] < 1e-8 and row["sklearn_s"] > 0 for row in rows)


def test_the_benchmark_of_memory_measures_peaks(tmp_path: Path) -> None:
    few, many = measured(tmp_path, "memory")["memory"]  # type: ignore[misc]
    assert few["millions"] == 1
    assert 50 < few["peak_mib"] <= many["peak_mib"] * 1.2


@pytest.mark.mnist
def test_the_benchmark_of_spark_fits_both(tmp_path: Path) -> None:
    found = measured(tmp_path, "spark")
    assert found["reckoned_s"] == found["theirs_s"] / 5 * 51  # type: ignore[operator]
    assert min(found["accuracies"].values()) > 0.7  # type: ignore[attr-defined]
