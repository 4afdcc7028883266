"""The sbatch scripts, as far as a machine without Slurm can run them: srun is a script that calls mpiexec."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.jobs import environment, metrics_of
from tests.support.places import ROOT

SCRIPTS = sorted((ROOT / "mpi_jobs" / "slurm").glob("*.sbatch"))

SRUN = """#!/bin/bash
[ -n "${SLURM_NTASKS:-}" ] || exit 3
ranks=$SLURM_NTASKS
while [[ $1 == --* ]]; do
    case $1 in --ntasks=*) ranks=${1#*=} ;; esac
    shift
done
exec mpiexec -n "$ranks" "$@"
"""


GRID = "--ranks 2 --threads 1 --repeats 1 --images 900 --each 200 --folder out"


@pytest.fixture
def allocation(tmp_path: Path) -> dict[str, str]:
    """The environment of a batch job with two ranks, in a folder that looks like a checkout."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in ("mpi_jobs", "bench", "common", "spark_jobs"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = f"{tmp_path / 'bin'}{os.pathsep}{environment()['PATH']}"
    return environment(PATH=path, SLURM_NTASKS="2", SLURM_CPUS_PER_TASK="1", PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_valid_and_says_how_it_is_bound(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?", text, re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "time", "output", "hint"} <= set(options)
    assert "--cpu-bind=cores" in text
    assert text.splitlines()[1].startswith(f"# sbatch mpi_jobs/slurm/{script.name} ")


@pytest.mark.slow
def test_the_ridge_script_runs_either_job(tmp_path: Path, allocation: dict[str, str]) -> None:
    for job in ("ridge_data_parallel", "ridge_model_parallel"):
        done = subprocess.run(
            ["bash", ROOT / "mpi_jobs" / "slurm" / "ridge.sbatch", "--quiet", "--out", job],
            cwd=tmp_path,
            env={**allocation, "JOB": f"mpi_jobs/{job}.py"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        metrics = metrics_of(tmp_path / job)
        assert (metrics["job"], metrics["workers"], metrics["threads"]) == (job, 2, 1)


@pytest.mark.slow
def test_the_scripts_for_networks_train_and_predict(tmp_path: Path, allocation: dict[str, str]) -> None:
    for script, words in {
        "train_cnn": ["--limit", "200", "--epochs", "1", "--out", "run"],
        "predict_cnn": ["--model", "run", "--data", "digits", "--out", "predicted"],
    }.items():
        done = subprocess.run(
            ["bash", ROOT / "mpi_jobs" / "slurm" / f"{script}.sbatch", *words, "--quiet"],
            cwd=tmp_path,
            env=allocation,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    trained, predicted = metrics_of(tmp_path / "run"), metrics_of(tmp_path / "predicted")
    assert (trained["workers"], trained["threads"], len(trained["epochs"])) == (2, 1, 1)
    assert [rank["threads"] for rank in predicted["ranks"]] == [0, 1]


@pytest.mark.slow
@pytest.mark.mnist
def test_the_scaling_script_measures_a_grid(tmp_path: Path, allocation: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", ROOT / "mpi_jobs" / "slurm" / "scaling.sbatch", *GRID.split(), "--json", "scaling.json"],
        cwd=tmp_path,
        env=allocation,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "scaling.json").is_file()
    assert (tmp_path / "out" / "scaling_heat_maps.png").is_file()
