from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.jobs import command
from tests.support.places import ROOT

pytestmark = pytest.mark.spark

SMALL = """
import sys
from pathlib import Path
from bench import harness, ridge
ridge.DATA = ("--data", "digits", "--lambdas", "1:3:3")
ridge.SIZES, ridge.REPEATS, ridge.FIGURE = (300, 1438), 1, Path("speedup.png")
sys.exit(harness.main("", ridge.measure))
"""


def test_the_ridge_benchmark_measures_everything_and_writes_it_down(tmp_path: Path) -> None:
    done = command("python", "-c", SMALL, "--json", "out/ridge.json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads((tmp_path / "out" / "ridge.json").read_text())
    assert result["environment"]["cores"] >= 1
    assert "numpy" in result["environment"]["versions"]
    assert [row["images"] for row in result["measured"]["engines"]] == [300, 1438]
    assert all(
        row[job] > 0 for row in result["measured"]["engines"] for job in ("serial", "outer", "inner", "gram")
    )
    assert len(result["claims"]) == 4
    for claim in result["claims"]:
        assert set(claim) == {"claim", "value", "bound", "holds"}
        assert claim["claim"] in done.stdout
    assert (tmp_path / "speedup.png").stat().st_size > 5000
