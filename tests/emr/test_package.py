"""The zip of the project."""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

from emr.package import LEFT_OUT, project_zip
from tests.support.places import ROOT


def test_the_zip_holds_the_packages_of_spark_jobs_and_nothing_else(tmp_path: Path) -> None:
    archive = project_zip(tmp_path / "a" / "project.zip")
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
        assert opened.read("common/arrays.py") == (ROOT / "common" / "arrays.py").read_bytes()
    assert {"common/__init__.py", "common/report/templates/base.html.j2", "spark_jobs/engine/blocks.py"} <= set(
        names
    )
    assert all(name.startswith(("common/", "spark_jobs/")) for name in names)
    assert not any("__pycache__" in name for name in names)


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first = project_zip(tmp_path / "1.zip").read_bytes()
    (ROOT / "common" / "arrays.py").touch()
    assert project_zip(tmp_path / "2.zip").read_bytes() == first


def imported_by(source: bytes) -> set[str]:
    """Return the dotted names of everything that a module imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


TRIED = {
    "common/run/features.py": {
        f"common.nets.{name}" for name in ("backbones", "backbones.backbone", "backbones.weighted_backbone")
    },
    "common/models/loaded.py": {"common.nets.trained.TrainedNetwork"},
}
"""Modules that others try to import, and tell in one line if they are not there: a cluster exports no networks."""


def test_nothing_in_the_zip_imports_what_is_left_out(tmp_path: Path) -> None:
    assert all((ROOT / folder / "__init__.py").is_file() for folder in LEFT_OUT)
    left_out = tuple(folder.rstrip("/").replace("/", ".") for folder in LEFT_OUT)
    with zipfile.ZipFile(project_zip(tmp_path / "project.zip")) as opened:
        modules = {name: opened.read(name) for name in opened.namelist() if name.endswith(".py")}
    assert not [name for name in modules if name.startswith(LEFT_OUT)]
    for name, source in modules.items():
        missing = {imported for imported in imported_by(source) if imported.startswith(left_out)}
        assert missing <= TRIED.get(name, set()), name
