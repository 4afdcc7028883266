"""predict_cnn.py and profile_cnn.py as users run them; tests/mpi/test_pipeline.py checks the predictions."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from common.data.catalogue import Classes
from common.data.decode import PixelFormat
from common.nets.checkpoints import BEST, Checkpoint, Progress
from common.nets.networks import NetworkSpec, build
from common.nets.preprocessing import Preprocessing
from common.run.exits import INTERRUPTED
from tests.support.disturbed import Job
from tests.support.jobs import metrics_of, mpiexec
from tests.support.places import ROOT

pytestmark = pytest.mark.slow

PREDICT, PROFILE = (ROOT / "mpi_jobs" / f"{name}.py" for name in ("predict_cnn", "profile_cnn"))
DIGITS = tuple(str(digit) for digit in range(10))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network for the bundled digits."""
    torch.manual_seed(1)
    spec = NetworkSpec("small", 1, 8, 8, 10)
    network = build(spec)
    preprocessing = Preprocessing.for_channels(PixelFormat((8, 8), grey=True), 1)
    folder = tmp_path_factory.mktemp("model")
    Checkpoint(
        spec,
        {name: value.detach() for name, value in network.named_parameters()},
        {name: value[None] for name, value in network.named_buffers()},
        {},
        Progress(images=[1]),
        Classes(DIGITS),
        preprocessing,
        {},
        {},
        1,
    ).save(folder / BEST)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of 600 small images, of which one is damaged and one is missing."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(2)
    paths = [folder / f"{number:03d}.png" for number in range(600)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (12, 9), np.uint8)).save(path)
    paths[123].write_bytes(b"\x89PNG")
    paths[456].unlink()
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model: Path, images: list[str]) -> Path:
    """The run folder of an undisturbed prediction of these images on two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "names.txt").write_text("\n".join(images))  # the last line has no newline
    done = mpiexec(2, PREDICT, "--model", model, "--data", "list:names.txt", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "2 images could not be used" in done.stderr
    return folder / "run"


def rows_of(folder: Path) -> list[list[str]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_digits_as_typed(tmp_path: Path, model: Path) -> None:
    done = mpiexec(6, PREDICT, "--model", model, "--data", "digits", "--ratio", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    teams = "ranks 2 to 4 a preprocessor and 2 predictors; rank 5 decodes and predicts"
    assert lines[0] == f"6 ranks: rank 0 source, rank 1 sink; {teams}"
    report = Path(lines[-1].removeprefix("report: "))
    assert report.is_relative_to(tmp_path / "runs")
    assert {path.name for path in report.parent.iterdir()} == {
        "report.html",
        "metrics.json",
        "prediction.json",
        "predictions.csv",
        "figures",
    }
    assert rows_of(report.parent) == [
        [f"digits/{number:05d}", str(digit)] for number, digit in enumerate(predicted_by_pytorch(model))
    ]
    assert len(metrics_of(report.parent)["ranks"]) == 6


def predicted_by_pytorch(model: Path) -> list[int]:
    """Return what the network in a checkpoint says of the digits, in this process."""
    checkpoint = Checkpoint.load(model / BEST)
    network = build(checkpoint.spec).eval()
    network.load_state_dict(checkpoint.state_dict())
    pixels = np.rint(load_digits().images * (255 / 16)).astype(np.float32)
    mean, deviation = checkpoint.preprocessing.mean, checkpoint.preprocessing.deviation
    with torch.inference_mode():
        logits = network((torch.from_numpy(pixels)[:, None] / 255 - mean[0]) / deviation[0])
    found: list[int] = logits.argmax(1).tolist()
    assert len(set(found)) > 2
    return found


@contextmanager
def fed(path: Path) -> Iterator[Callable[[list[str]], int]]:
    """Make a named pipe, and yield a function that writes lines into it."""
    os.mkfifo(path)
    # opened for reading too: so this does not wait for a reader, and no reader sees an end before it is closed
    writer = os.open(path, os.O_RDWR)
    try:
        yield lambda lines: os.write(writer, "".join(f"{line}\n" for line in lines).encode())
    finally:
        os.close(writer)
        path.unlink()


def interrupt(job: Job, _: list[int]) -> None:
    job.process.send_signal(signal.SIGINT)


def kill(rank: int) -> Callable[[Job, list[int]], None]:
    return lambda _, ranks: os.kill(ranks[rank], signal.SIGKILL)


def test_whatever_ends_it_it_is_completed_to_the_same_file(
    tmp_path: Path, model: Path, images: list[str], whole: Path
) -> None:
    begin = ["--model", str(model), "--out", "run"]
    # rank 1 writes, 2 decodes, 3 predicts
    ends = {"interrupt": interrupt, "sink": kill(1), "preprocessor": kill(2), "predictor": kill(3)}
    written = 0
    for number, (what, end) in enumerate(ends.items()):
        with fed(tmp_path / "feed") as feed:
            flags = ["predict_cnn.py", *(["--resume", "run"] if number else begin), "--data", "list:feed"]
            job = Job(tmp_path, flags, "mpich", 4, busy_s=0.0)
            feed(images[: 100 * (number + 1) + 7])
            file = tmp_path / "run" / "predictions.csv"
            job.wait_for(lambda: file.exists() and len(rows_of(tmp_path / "run")) == 100 * (number + 1) + 7)  # noqa: B023
            feed(images[100 * (number + 1) + 7 :][:50])
            code, output = job.disturb(lambda ranks: end(job, ranks))  # noqa: B023
        assert code != 0, what
        assert "Traceback" not in output
        if what == "interrupt":
            assert code == INTERRUPTED
            assert f"--resume {tmp_path / 'run'} completes it" in output
        assert len(rows_of(tmp_path / "run")) > written
        written = len(rows_of(tmp_path / "run"))
    done = mpiexec(1, PREDICT, "--resume", "run", "--data", f"list:{whole.parent / 'names.txt'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == (whole / "predictions.csv").read_bytes()
    assert metrics_of(tmp_path / "run")["images"] == metrics_of(whole)["images"]


def test_others_do_the_work_of_a_predictor_that_does_not_get_on(
    tmp_path: Path, model: Path, images: list[str], whole: Path
) -> None:
    batch = 4
    with fed(tmp_path / "feed") as feed:
        flags = [
            "--model",
            str(model),
            "--data",
            "list:feed",
            "--unordered",
            "--batch",
            str(batch),
            "--out",
            "run",
        ]
        job = Job(tmp_path, ["predict_cnn.py", *flags, "--ratio", "2"], "mpich", 5, busy_s=0.0)
        feed(images[:50])  # two more than fill batches: they do not wait for ever
        file = tmp_path / "run" / "predictions.csv"
        job.wait_for(lambda: file.exists() and len(rows_of(tmp_path / "run")) == 50)
        slow = job.ranks()[3]
        os.kill(slow, signal.SIGSTOP)
        feed(images[50:])
        job.wait_for(lambda: len(rows_of(tmp_path / "run")) >= 600 - 2 * batch)
        assert len(rows_of(tmp_path / "run")) < 600  # it holds a chunk or two
        os.kill(slow, signal.SIGCONT)
    output, _ = job.process.communicate(timeout=60)
    assert job.process.returncode == 0, output
    rows = rows_of(tmp_path / "run")
    assert sorted(rows) == rows_of(whole)
    assert sorted(name for name, _ in rows) == images
    assert sorted(name for name, predicted in rows if not predicted) == [images[123], images[456]]


LIMITED = """
import resource

from mpi4py import MPI

from mpi_jobs import predict_cnn
from mpi_jobs.engine.exits import run_mpi_job

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))  # writes beyond it fail, as on a full disk
run_mpi_job(predict_cnn.main)
"""


def test_a_disk_that_fills_ends_the_job_with_1_and_the_run_can_be_completed(tmp_path: Path, model: Path) -> None:
    (tmp_path / "job.py").write_text(LIMITED)
    done = mpiexec(2, "job.py", "--model", model, "--data", "digits", "--out", "run", cwd=tmp_path)
    assert done.returncode == 1
    message = done.stderr.splitlines()[0]
    assert message.startswith(f"job.py: {tmp_path / 'run'}: cannot be written")
    assert "--resume" in message
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "report.html").exists()
    again = mpiexec(2, PREDICT, "--resume", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(rows_of(tmp_path / "run")) == 1797
    assert metrics_of(tmp_path / "run")["resumed_after"] > 0


@pytest.mark.parametrize("job", [PREDICT, PROFILE])
def test_wrong_input_is_one_line(tmp_path: Path, model: Path, job: Path) -> None:
    """tests/mpi/test_pipeline.py checks that further errors are raised on every rank."""
    done = mpiexec(2, job, "--model", model, "--data", "folder:nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no such folder" in done.stderr
    assert not (tmp_path / "runs").exists()
