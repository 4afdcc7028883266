"""Who may import whom: the strata of the project, and the rooms of its library."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.support.jobs import command
from tests.support.places import ROOT

ENGINES = {"pyspark", "py4j", "mpi4py", "torch", "torchvision", "boto3"}
OURS = {"common", "spark_jobs", "mpi_jobs", "emr", "bench", "tests"}
MAY_IMPORT = {
    "common": {"common"},
    "common/nets": {"common", "torch", "torchvision"},
    "common/ridge/cuda.py": {"common", "torch"},
    "spark_jobs": {"common", "spark_jobs", "pyspark", "py4j"},
    "mpi_jobs": {"common", "mpi_jobs", "mpi4py", "torch", "torchvision"},
    "emr": {"common", "emr", "boto3"},
}

GROUND = "the modules of common itself"
ROOMS = {
    GROUND: set(),
    "data": set(),
    "features": {"data"},
    "evaluate": {"data"},
    "ridge": {"data", "features", "evaluate"},
    "nets": {"data", "evaluate"},
    "predict": {"data", "features", "evaluate", "ridge"},
    "report": {"data", "features", "evaluate", "ridge", "predict"},
    "run": {"data", "features", "evaluate", "ridge", "nets", "predict", "report"},
    "compare": {"data", "report", "run"},
    "models": {"data", "features", "ridge", "nets"},
    "export": {"data", "features", "ridge", "nets", "run", "models"},
    "tools": {"data", "features", "run"},
    "estimators": {"data", "features", "ridge", "run"},
}
"""Rooms of common, and the rooms that each may import from besides itself and the ground floor."""


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


def files_of(package: str) -> list[Path]:
    """The modules of a package, or one module, without those in it that have rules of their own."""
    if package.endswith(".py"):
        return [ROOT / package]
    inner = [ROOT / other for other in MAY_IMPORT if other.startswith(f"{package}/")]
    return [
        path
        for path in sorted((ROOT / package).rglob("*.py"))
        if not any(path.is_relative_to(other) for other in inner)
    ]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = files_of(package)
    assert files
    for path in files:
        guarded = {name.split(".")[0] for name in imports(path)} & (ENGINES | OURS)
        assert guarded <= MAY_IMPORT[package], path


def room_of(name: str) -> str | None:
    """The room of common that a dotted name lies in; None for names outside common and for common itself."""
    first, _, rest = name.partition(".")
    if first != "common" or not rest:
        return None
    return rest.partition(".")[0] if (ROOT / "common" / rest.partition(".")[0]).is_dir() else GROUND


def test_every_room_has_its_rules() -> None:
    assert set(ROOMS) - {GROUND} == {path.parent.name for path in (ROOT / "common").glob("*/__init__.py")}


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_from_a_higher_one(room: str) -> None:
    folder = ROOT / "common" if room == GROUND else ROOT / "common" / room
    files = sorted(folder.glob("*.py") if room == GROUND else folder.rglob("*.py"))
    assert files
    for path in files:
        rooms = {room_of(name) for name in imports(path)} - {None, room, GROUND}
        assert rooms <= ROOMS[room], f"{path} imports from {rooms - ROOMS[room]}"


def test_rooms_are_in_order() -> None:
    """Each room is built from those before it, so that no two can need each other."""
    before: set[str] = set()
    for room, below in ROOMS.items():
        assert below <= before, room
        before.add(room)


JOBS = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for package in ("spark_jobs", "mpi_jobs")
    for path in (ROOT / package).glob("*.py")
    if is_job(path)
}


def test_jobs_are_at_the_top_and_machinery_is_below() -> None:
    assert {"spark_jobs.serial", "spark_jobs.outer", "spark_jobs.inner", "spark_jobs.gram"} <= JOBS
    for package in ("spark_jobs", "mpi_jobs"):
        assert {path for path in (ROOT / package).glob("*.py") if not is_job(path)} == {
            ROOT / package / "__init__.py"
        }
        assert not [path for path in (ROOT / package).glob("*/**/*.py") if is_job(path)]


def test_jobs_are_imported_for_their_fit_alone() -> None:
    """A job may be imported by another job, which calls its `fit`; machinery and library know no job."""
    for package in MAY_IMPORT:
        for path in files_of(package):
            if path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") not in JOBS:
                assert not imports(path) & JOBS, path


def test_workers_need_neither_scikit_learn_nor_matplotlib() -> None:
    """What executors import at the top of modules: numpy and Pillow, and Spark itself."""
    reached, waiting = (
        set(),
        ["spark_jobs.engine.blocks", "spark_jobs.engine.lambda_tasks", "common.data.sources"],
    )
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
    sources = {f"common.data.sources.{name}" for name in ("digits", "idx", "files")}
    assert {"numpy"} | sources <= reached
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


def test_no_test_module_imports_from_another() -> None:
    """Helpers that test modules share are in tests/support, and fixtures in a conftest.py."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in imports(path):
            if name.split(".")[0] == "tests":
                assert name.split(".")[1:2] == ["support"], f"{path} imports {name}"


@pytest.mark.parametrize("job", ["predict_cnn", "profile_cnn"])
def test_the_allocator_is_set_up_before_numpy_starts_threads(job: str) -> None:
    """Importing the job loads no numpy; its main function calls keep_buffers() first."""
    done = command(sys.executable, "-c", f"import sys, mpi_jobs.{job}; sys.exit('numpy' in sys.modules)", cwd=ROOT)
    assert done.returncode == 0, done.stderr
