from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from common.run.flags import ridge_parser
from tests.support.jobs import environment, metrics_of, serial
from tests.support.places import ROOT


def test_the_grid_of_lambdas() -> None:
    def grid(*argv: str) -> tuple[float, ...]:
        return ridge_parser("").parse_arguments(argv).lambdas

    np.testing.assert_allclose(grid(), np.logspace(-5, 5, 10))
    np.testing.assert_allclose(grid("--lambdas", "-2:3:6"), np.logspace(-2, 3, 6))
    assert grid("--lambdas=0,1e2,7") == (0, 100, 7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lambdas", "nan"], "finite"),
        (["--lambdas", "1,-3"], "finite number from 0 up"),
        (["--lambdas", "-3"], "finite number from 0 up"),
        (["--lambdas", "inf"], "finite"),
        (["--lambdas", "0:999:3"], "finite"),
        (["--lambdas", "1e305"], "from 0 up to 1e+100"),
        (["--lambdas", "0:1:100000000000"], "more than 1,000"),
        (["--size", "10000x10000"], "at most 100,000 pixels"),
        (["--lambdas", "1,1"], "twice"),
        (["--lambdas", "1:2"], "neither A:B:N nor a comma list"),
        (["--lambdas", "1:2:0"], "neither"),
        (["--lambdas", ""], "neither"),
        (["--validation", "0"], "above 0 and below 1"),
        (["--validation", "1"], "above 0 and below 1"),
        (["--validation", "0.2", "--folds", "3"], "not allowed with"),
        (["--folds", "1"], "2 to 1000"),
        (["--test", "nan"], "above 0 and below 1"),
        (["--limit", "0"], "from 1 up"),
        (["--limit", "ten"], "from 1 up"),
        (["--size", "40"], "such as 40x60"),
        (["--size", "0x3"], "such as 40x60"),
        (["--binarize", "2"], "above 0"),
        (["--max-corrupt", "3"], "from 0 to 1"),
        (["--penalty", "max"], "choose from"),
        (["--seed", "-1"], "from 0 up"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        ridge_parser("").parse_arguments(flags)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert message in printed


def test_in_a_pipe_a_job_is_silent_but_for_its_result(tmp_path: Path) -> None:
    done = serial("--out", "run", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == f"report: {tmp_path}/run/report.html"
    quiet = serial("--out", "run2", "--quiet", cwd=tmp_path)
    assert quiet.stdout == f"report: {tmp_path}/run2/report.html\n"


class OnATerminal:
    """A job whose stderr is a terminal, as a person sees it."""

    def __init__(self, *flags: str, cwd: Path) -> None:
        self._controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (24, 80))
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "spark_jobs" / "serial.py", *flags],
            cwd=cwd,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=terminal,
        )
        os.close(terminal)
        self.shown = ""

    def read_until(self, word: str | None) -> None:
        """Read what is shown until `word` is, or until the job ends."""
        while word is None or word not in self.shown:
            try:
                chunk = os.read(self._controller, 4096)
            except OSError:  # the other end is closed
                break
            self.shown += chunk.decode()
        if word is None:
            os.close(self._controller)
            self.process.wait(timeout=30)


def test_on_a_terminal_a_job_shows_its_phases(tmp_path: Path) -> None:
    job = OnATerminal("--out", "run", cwd=tmp_path)
    job.read_until(None)
    assert job.process.returncode == 0
    for phase in ("read", "moments", "path", "report"):
        assert phase in job.shown


def test_ctrl_c_ends_in_one_line_and_leaves_nothing(tmp_path: Path, folder_of_images: Path) -> None:
    for i in range(5000):
        (folder_of_images / "ash" / f"more{i}.png").hardlink_to(folder_of_images / "ash" / "00.png")
    before = sorted(tmp_path.rglob("*"))
    # resizing all these takes a while
    job = OnATerminal("--data", f"folder:{folder_of_images}", "--size", "20x20", "--out", "run", cwd=tmp_path)
    job.read_until("img/s")
    job.process.send_signal(signal.SIGINT)
    job.read_until(None)
    assert job.process.returncode == 130
    assert job.shown.endswith("serial.py: interrupted; no result was written\r\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_limit_beyond_the_set_warns_and_takes_all(tmp_path: Path) -> None:
    done = serial("--limit", "5000", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "warning: --limit 5000 is more than the 1,438 training images; all of them are used\n"
    images = metrics_of(tmp_path / "run")["images"]
    assert images == {"train": 1150, "validation": 288, "test": 359, "skipped": 0, "quarantined": 0, "ignored": 0}
