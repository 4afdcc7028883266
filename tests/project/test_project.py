"""The repository as a whole: lock, lint, types, sizes of modules and functions, and what must not be in it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.jobs import command
from tests.support.places import ROOT

MAX_MODULE, MAX_FUNCTION = 400, 60
"""Lines."""
PACKAGES = ("common", "spark_jobs", "mpi_jobs", "emr", "bench")


def tracked() -> list[str]:
    """Return the files of the repository and those that could be added to it."""
    listed = command("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def requirements() -> set[str]:
    """Return the names of all packages that the project and its extras require."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    required = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    return {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in required}


def test_the_lock_holds_names_and_versions_and_no_address() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[^\s@/:]+", line) for line in lines)
    assert requirements() <= {line.split("==")[0] for line in lines}


@pytest.mark.slow  # `make check` runs the same commands by itself
@pytest.mark.parametrize("words", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_lint_and_types_are_clean(words: list[str]) -> None:
    done = command(*words, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_one_process_runs_all_tests_of_a_group(request: pytest.FixtureRequest) -> None:
    """A version of pytest whose ids pytest-xdist cannot extend starts every server in every process."""
    assert request.node.nodeid.endswith("@project/test_project")


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_no_module_is_long() -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in modules(*PACKAGES)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_MODULE} == {}


def test_no_function_is_long() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in modules(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION} == {}


def test_the_formatter_lays_out_all_code() -> None:
    off = re.compile(r"#\s*(fmt|yapf)\s*:")
    assert [name for name in tracked() if name.endswith(".py") and off.search((ROOT / name).read_text())] == []


def test_nothing_large_and_no_data_is_in_the_repository() -> None:
    for name in tracked():
        assert (ROOT / name).stat().st_size < 1_000_000, name
        assert not name.endswith((".npz", ".npy", ".gz", ".pt", ".pth", ".parquet", ".pkl")), name


def test_nothing_unpickles_from_disk_and_nothing_runs_through_a_shell() -> None:
    forbidden = re.compile(r"allow_pickle=True|weights_only=False|pickle\.load\(|shell=True|os\.system")
    for name in tracked():
        if name.endswith(".py") and name != "tests/project/test_project.py":
            assert not forbidden.search((ROOT / name).read_text()), name


def test_make_without_a_target_lists_the_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "run", "check", "test", "lint", "data", "bench", "clean"):
        assert f"make {target} " in done.stdout


def test_every_part_of_the_environment_says_what_it_brings() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    described = dict(re.findall(r"^BRINGS_([a-z]+) := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(described) == {*extras, "base"}
    assert all(re.search(r"\([\d.]+ [GM]B\b", text) for text in described.values())
