"""The house: lock, lint, types, and what must not be in the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest

from tests.support.jobs import command
from tests.support.places import ROOT


def tracked() -> list[str]:
    listed = command("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_lock_holds_names_and_versions_and_no_address() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[^\s@/:]+", line) for line in lines)
    locked = {line.split("==")[0] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    names = {re.split(r"[<>=\[ ]", requirement)[0].lower() for requirement in wanted}
    assert names <= locked


@pytest.mark.parametrize("words", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_lint_and_types_are_clean(words: list[str]) -> None:
    done = command(*words, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_large_and_no_data_is_in_the_repository() -> None:
    for name in tracked():
        assert (ROOT / name).stat().st_size < 1_000_000, name
        assert not name.endswith((".npz", ".npy", ".gz", ".pt", ".pth", ".parquet", ".pkl")), name


def test_nothing_unpickles_from_disk_and_nothing_runs_through_a_shell() -> None:
    forbidden = re.compile(r"allow_pickle=True|weights_only=False|pickle\.load\(|shell=True|os\.system")
    for name in tracked():
        if name.endswith(".py") and name != "tests/project/test_project.py":
            assert not forbidden.search((ROOT / name).read_text()), name


def test_make_without_a_target_says_what_there_is() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "run", "test", "lint", "data", "bench", "clean"):
        assert f"make {target} " in done.stdout
