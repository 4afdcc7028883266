from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from common.console import ridge_parser
from tests.conftest import ROOT, environment, metrics_of, serial


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


def test_on_a_terminal_a_job_shows_its_phases(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, ROOT / "spark_jobs" / "serial.py", "--out", "run"],
        cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=terminal,
    ) as process:  # fmt: skip
        os.close(terminal)
        shown = b""
        while True:
            try:
                chunk = os.read(controller, 4096)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            shown += chunk
    os.close(controller)
    assert process.returncode == 0
    for phase in (b"read", b"moments", b"path", b"report"):
        assert phase in shown


def test_ctrl_c_ends_in_one_line_and_leaves_nothing(tmp_path: Path, folder_of_images: Path) -> None:
    endless = folder_of_images / "beech" / "endless.png"
    os.mkfifo(endless)  # whoever reads it waits
    flags = ["--data", f"folder:{folder_of_images}", "--out", "run"]
    before = sorted(tmp_path.rglob("*"))
    with subprocess.Popen(
        [sys.executable, ROOT / "spark_jobs" / "serial.py", *flags],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background shells ignore it
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):  # until the job has opened it
                writer = os.open(endless, os.O_WRONLY | os.O_NONBLOCK)
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)  # until it waits in read(), which a signal interrupts, and not just before it
        process.send_signal(signal.SIGINT)
        try:
            _, printed = process.communicate(timeout=30)
        finally:
            process.kill()
            os.close(writer)
    assert process.returncode == 130
    assert printed == "serial.py: interrupted; nothing was written\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_limit_beyond_the_set_warns_and_takes_all(tmp_path: Path) -> None:
    done = serial("--limit", "5000", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == "warning: --limit 5000 is more than the 1,438 training images; all of them are used\n"
    images = metrics_of(tmp_path / "run")["images"]
    assert images == {"train": 1150, "validation": 288, "test": 359, "skipped": 0}
