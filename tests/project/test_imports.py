"""Who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENGINES = {"pyspark", "py4j", "mpi4py", "torch", "torchvision", "boto3"}
OURS = {"common", "spark_jobs", "mpi_jobs", "emr", "bench", "tests"}
MAY_IMPORT = {
    "common": {"common"},
    "spark_jobs": {"common", "spark_jobs", "pyspark", "py4j"},
    "mpi_jobs": {"common", "mpi_jobs", "mpi4py", "torch", "torchvision"},
    "emr": {"common", "emr", "boto3"},
}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_job(path: Path) -> bool:
    return '__name__ == "__main__"' in path.read_text()


PACKAGES = [package for package in MAY_IMPORT if (ROOT / package).is_dir()]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        guarded = {name.split(".")[0] for name in imports(path)} & (ENGINES | OURS)
        assert guarded <= MAY_IMPORT[package], path


def test_nobody_imports_a_job() -> None:
    jobs = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for package in ("spark_jobs", "mpi_jobs")
        for path in (ROOT / package).glob("*.py")
        if is_job(path)
    }
    assert {"spark_jobs.serial", "spark_jobs.outer", "spark_jobs.inner", "spark_jobs.gram"} <= jobs
    chooser = ROOT / "spark_jobs" / "ridge.py"  # runs whichever job is fastest
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert path == chooser or not imports(path) & jobs, path


def test_workers_need_neither_scikit_learn_nor_matplotlib() -> None:
    """What executors import at the top of modules: numpy and Pillow, and Spark itself."""
    reached, waiting = set(), ["spark_jobs.blocks", "spark_jobs.worker", "common.datasets"]
    while waiting:
        name = waiting.pop()
        if "." in name:
            waiting.append(name.rpartition(".")[0])  # importing a module imports its package first
        path = ROOT / f"{name.replace('.', '/')}.py"
        path = path if path.exists() else ROOT / name.replace(".", "/") / "__init__.py"
        if name in reached or not path.exists():
            continue
        reached.add(name)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
                reached |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                reached.add(node.module.split(".")[0])
    assert {"numpy", "common.datasets.digits", "common.datasets.idx", "common.datasets.files"} <= reached
    assert not reached & {
        "sklearn",
        "matplotlib",
        "jinja2",
        "scipy",
        "requests",
        "pooch",
        "tqdm",
        "threadpoolctl",
        "pyarrow",
    }
