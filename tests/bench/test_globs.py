from __future__ import annotations

import json
from pathlib import Path

from tests.support.jobs import command
from tests.support.places import ROOT

SMALL = """
from bench import globs
globs.FOLDERS, globs.IN_EACH, globs.FILES = 2, 6, 12
raise SystemExit(globs.main(globs.__doc__, globs.measure))
"""


def test_the_benchmark_of_globs_counts_requests(tmp_path: Path) -> None:
    done = command("python", "-c", SMALL, "--json", "out.json", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    measured = json.loads((tmp_path / "out.json").read_text())["measured"]
    assert sum(measured["s3a://"]["requests"].values()) > 12
    assert measured["files"]["requests"] == {}
