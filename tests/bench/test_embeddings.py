from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.jobs import command
from tests.support.places import DATA, ROOT

SMALL = """
from bench import embeddings as e
from bench.harness import main
e.SETS, e.IMAGES = {"hands": e.Case(1, 0.1, False)}, 8
e.ROUNDS, e.ROWS, e.LIMIT_S = 1, 1000, 15
raise SystemExit(main("", e.measure))
"""


@pytest.mark.hands
@pytest.mark.skipif(not (DATA / "apple-leaves").is_dir(), reason="no apple-leaves")
def test_the_benchmark_of_embeddings_measures_everything(tmp_path: Path) -> None:
    words = ["python", "-c", SMALL, "--json", "out.json"]
    done = command(*words, cwd=tmp_path, PYTHONPATH=str(ROOT), IMAGE_DATA_ROOT=str(DATA), timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    measured = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert measured["refit"]["ours"]["test"] > 0.5
    assert all(rate > 0 for rates in measured["rates"].values() for rate in rates)
    assert {"MPI, 2", "Spark, 2", "torch", "onnxruntime"} <= measured["rates"].keys()
    assert [fit["set"] for fit in measured["fits"]] == ["hands"] * 2
