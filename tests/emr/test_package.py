from __future__ import annotations

import zipfile
from pathlib import Path

from emr.package import project_zip
from tests.support.places import ROOT


def test_the_zip_holds_what_executors_import_and_nothing_else(tmp_path: Path) -> None:
    archive = project_zip(tmp_path / "a" / "project.zip")
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        assert opened.read("common/arrays.py") == (ROOT / "common" / "arrays.py").read_bytes()
    assert {"common/__init__.py", "common/templates/base.html.j2", "spark_jobs/engine/blocks.py"} <= set(names)
    assert all(name.startswith(("common/", "spark_jobs/")) for name in names)
    assert not any("__pycache__" in name for name in names)


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first = project_zip(tmp_path / "1.zip").read_bytes()
    (ROOT / "common" / "arrays.py").touch()
    assert project_zip(tmp_path / "2.zip").read_bytes() == first
