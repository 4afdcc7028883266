"""Every command in README, as it stands there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.herbarium import herbarium
from tests.support.jobs import environment
from tests.support.places import DATA, ROOT

pytestmark = pytest.mark.spark

COMMANDS = [
    re.sub(r"\s+#.*", "", line)
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines()
]

ELSEWHERE = {
    "make test": "is what runs this",
    "spark-submit spark_jobs/outer.py": "tests/spark_jobs runs it, and looks at what comes of it",
    "make lint": "tests/project/test_project.py runs each of its commands",
    "mpiexec -n 4 python mpi_jobs/train_cnn.py": "tests/mpi_jobs runs it, and looks at what comes of it",
    "python -m bench.ridge --check": "takes minutes: tests/bench runs the same code on the bundled digits",
    "python -m bench.scale --check": "takes minutes: tests/bench runs the same code on fewer images",
    "python -m bench.strategy --check": "takes minutes: tests/bench runs the same code on the bundled digits",
    "python -m bench.mpi_ridge --check": "takes minutes: tests/bench runs the same code on the bundled digits",
    "python -m bench.cnn --check": "takes minutes: tests/bench runs the same code on tiny networks",
    "python -m bench.predict --check": "takes minutes: tests/bench runs the same code on fewer images",
    'make emr-deploy JOB=gram ARGS="--data mnist"': "asks AWS: tests/emr runs it on a stand-in",
    **dict.fromkeys(
        [line for line in COMMANDS if line.startswith("python -m emr deploy")],
        "asks AWS: tests/emr runs both jobs on a stand-in",
    ),
    "make bench-scaling": "takes minutes: tests/bench runs the same code on fewer images",
}
NEEDS_MNIST = {'make run JOB=gram ARGS="--data mnist"'}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources beside the environment that is already there, with images of the user's own."""
    folder = tmp_path_factory.mktemp("readme") / "checkout"
    folder.mkdir()
    for name in ("common", "spark_jobs", "mpi_jobs", "emr", "bench", "docs", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder / path.name)
    (folder / ".venv").mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name.startswith(".ready-"):
            (folder / ".venv" / part.name).touch()  # newer than what it is made from: make has nothing to set up
        else:
            (folder / ".venv" / part.name).symlink_to(part)
    return folder


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) > 12
    assert set(ELSEWHERE) <= set(COMMANDS)
    assert set(COMMANDS) >= NEEDS_MNIST
    assert sum(line.startswith("spark-submit --master") for line in COMMANDS) == 1  # tests/spark_jobs runs it
    assert sum(line.startswith("sbatch") for line in COMMANDS) == 4  # tests/mpi_jobs runs them


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in COMMANDS
        if line not in ELSEWHERE and not line.startswith(("spark-submit --master", "sbatch"))
    ],
)
def test_a_command_of_the_readme(line: str, checkout: Path, folder_of_images: Path) -> None:
    if line in NEEDS_MNIST and not (DATA / "mnist").is_dir():
        pytest.skip("MNIST is not there: make data, or set IMAGE_DATA_ROOT")
    for name in ("my-images", "week2"):
        if name in line and not (checkout / name).exists():
            shutil.copytree(folder_of_images, checkout / name)
    if "my-herbarium" in line and not (checkout / "my-herbarium").exists():
        herbarium(checkout / "my-herbarium")
    offline = {}
    if line == "make data":  # whether or not this machine has a network: the download itself is tested elsewhere
        offline = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
        offline["IMAGE_DATA_ROOT"] = str(checkout / "data")
    done = subprocess.run(
        ["bash", "-ec", line],
        cwd=checkout,
        env=environment(**offline),
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if line == "make data":
        assert done.returncode == 2
        assert "--data digits" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-4000:]
    if "spark_jobs/" in line or "mpi_jobs/" in line or "make run" in line:
        report = Path(done.stdout.splitlines()[-1].removeprefix("report: "))
        assert report.is_file()
        assert report.is_relative_to(checkout / ("tables" if "ingest.py" in line else "runs"))
    if line == "make zip":
        assert (checkout / "dist" / "project.zip").is_file()
