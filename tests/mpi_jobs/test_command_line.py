from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import numpy as np
import pytest

from common.data.images import BLOCK_BYTES
from mpi_jobs.ridge.shares import UNDERWAY
from tests.support.jobs import environment, metrics_of, mpi_environment, mpiexec
from tests.support.places import ROOT

pytestmark = pytest.mark.slow

JOB = ROOT / "mpi_jobs" / "ridge_data_parallel.py"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nope"], "unrecognized arguments: --nope"),
        (["--threads", "0"], "--threads: '0' is not a whole number from 1 up"),
        (["--tile", "2000x3"], "--tile: '2000x3' is neither blas nor ROWSxCOLUMNS of at most 1,024 rows"),
        (["--combine", "vote"], "invalid choice: 'vote'"),
        (["--data", "nope"], "--data nope: no such source"),
        (["--data", "folder:nowhere"], "no such folder"),
        (["--limit", "1"], "1 training images are too few"),
        (["--out", str(ROOT / "tests")], "exists and is not an empty folder"),
    ],
)
def test_wrong_flags_are_one_line(tmp_path: Path, flags: list[str], message: str) -> None:
    done = mpiexec(3, JOB, *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_is_printed_once(tmp_path: Path) -> None:
    done = mpiexec(2, JOB, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.count("usage:") == 1
    assert done.stderr == ""


def test_too_many_unusable_images(tmp_path: Path, folder_of_images: Path) -> None:
    for path in folder_of_images.rglob("1*.png"):
        path.write_bytes(path.read_bytes()[:60])
    done = mpiexec(3, JOB, "--data", f"folder:{folder_of_images}", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "images cannot be used, more than --max-corrupt 0.01 allows" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_more_threads_of_blas_than_cores_are_warned_of(tmp_path: Path) -> None:
    many = ["--threads", str(os.cpu_count()), "--limit", "50"]
    done = mpiexec(2, JOB, *many, "--tile", "blas", cwd=tmp_path)
    assert done.returncode == 0
    assert "get in each other's way" in done.stderr
    done = mpiexec(2, JOB, *many, "--out", "tiles", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert metrics_of(tmp_path / "tiles")["threads"] == os.cpu_count()


def test_a_plain_python_is_one_rank(tmp_path: Path) -> None:
    done = subprocess.run(
        ["python", JOB, "--quiet", "--out", "run"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run")["workers"] == 1


def test_progress_is_shown_on_the_launchers_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["mpiexec", "-n", "2", "python", str(JOB), "--out", "run"]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        env=environment(**mpi_environment()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:
                break
            if not read:
                break
            shown += read
        output = process.communicate()[0]
    os.close(ours)
    assert process.returncode == 0
    assert b"moments" in shown
    assert output.splitlines()[-1].startswith("report: ")
    piped = mpiexec(2, JOB, "--out", "run2", cwd=tmp_path)
    assert piped.stderr == ""


@pytest.mark.parametrize(
    ("flags", "kept", "blocks"),
    [([], 0.2, 0), (["--folds", "2"], 1.0, 0), (["--images", "scatter"], 0.2, 2 * UNDERWAY)],
    ids=["read", "folds", "scatter"],
)
def test_the_memory_of_a_rank_is_its_own_share(
    tmp_path: Path, many_images: Path, flags: list[str], kept: float, blocks: int
) -> None:
    """Each of four ranks needs at most 300 MB, its own held-out images, and the blocks that it sends to others.

    30 MB of these are onnxruntime, and 80 MB the pages of the file that it has read. What libraries take differs
    by 20 MB from processor to processor.
    """
    always = ["--data", "mnist", "--data-root", many_images, "--threads", "1", "--lambdas", "1,10", "--quiet"]
    done = mpiexec(4, JOB, *always, *flags, "--out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    share = N_IMAGES / 4 * 28**2 / 2**20
    for rank in metrics_of(tmp_path / "run")["ranks"]:
        assert abs(rank["images"] - N_IMAGES // 4) <= 2
        assert rank["peak_mib"] < kept * share + (blocks * BLOCK_BYTES + 300e6) / 2**20


N_IMAGES = 400_000


@pytest.fixture(scope="module")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a set of many random images in the format of MNIST."""
    root = tmp_path_factory.mktemp("many")
    (root / "mnist").mkdir()
    rng = np.random.default_rng(0)
    for stem, count in (("train", N_IMAGES), ("t10k", 1000)):
        with (root / "mnist" / f"{stem}-images-idx3-ubyte").open("wb") as file:
            file.write(b"\0\0\x08\x03" + b"".join(number.to_bytes(4, "big") for number in (count, 28, 28)))
            for start in range(0, count, 50_000):
                file.write(rng.bytes(min(50_000, count - start) * 28**2))
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(i % 10 for i in range(count))
        (root / "mnist" / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    return root


HIDES = """
import sys
from pathlib import Path
from mpi4py import MPI
from mpi_jobs import ridge_data_parallel
from mpi_jobs.engine.exits import run_mpi_job

if MPI.COMM_WORLD.rank == 1:  # like a machine where the folder is not mounted
    Path.read_bytes = lambda path: Path(f"/nowhere{path}").open("rb").read()
run_mpi_job(ridge_data_parallel.main)
"""


def test_a_folder_that_one_rank_does_not_see_is_told_as_that(tmp_path: Path, folder_of_images: Path) -> None:
    (tmp_path / "job.py").write_text(HIDES)
    flags = ["--data", f"folder:{folder_of_images}", "--max-corrupt", "1", "--out", "run"]
    done = mpiexec(3, "job.py", *flags, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "rank 1 on " in line
    assert "none of its 16 images can be used" in line
    assert "--images scatter" in line
    assert not (tmp_path / "run").exists()
    seen = mpiexec(3, "job.py", *flags, "--images", "scatter", cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
