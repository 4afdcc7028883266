"""Machines as they are: streams that lack letters, folders that are gone, and what keeps Spark from starting."""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark import SparkConf

from common.errors import InputError
from spark_jobs.engine.starting import start
from tests.support.jobs import command, environment
from tests.support.places import ROOT

SERIAL, OUTER, INGEST = (ROOT / "spark_jobs" / f"{job}.py" for job in ("serial", "outer", "ingest"))


def shell(line: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, for what only a shell can prepare."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=cwd,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
        check=False,
    )


def is_one_line(done: subprocess.CompletedProcess[str], message: str) -> bool:
    """Return whether a job ended with 2 and one line that holds a message."""
    lines = [line for line in done.stderr.splitlines() if "incubator" not in line]
    assert "Traceback" not in done.stderr
    return done.returncode == 2 and message in lines[-1] and lines[-1].count(": ") >= 1


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8:strict", "cp1252"])
def test_streams_show_what_they_can(tmp_path: Path, encoding: str) -> None:
    out = os.fsdecode(b"caf\xe9 \xce\xbb")
    line = f"python {SERIAL} --data digits --lambdas 1 --out {shlex.quote(out)}"
    done = shell(line, tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "best " in done.stdout
    assert (tmp_path / out / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            f"python {SERIAL} --data 'folder:~nosuchuser/x'",
            "Could not determine home directory; write the path out",
        ),
        (f"python {SERIAL} --out '~nosuchuser/x'", "Could not determine home directory"),
        (f"ln -s loop loop; python {SERIAL} --out loop/x", "loop"),
        (f"mkdir gone; cd gone; rmdir ../gone; python {SERIAL}", "the current folder is gone"),
        (f"python {INGEST} digits $'t\\xe9'", r"t\udce9: is no UTF-8; name another folder"),
        (
            f"echo x > c; python {INGEST} digits t --classes '~nosuchuser/c'",
            "home directory",
        ),
        (
            f"printf 'ash\\nbeech\\n' | iconv -t UTF-16 > c; python {INGEST} digits t --classes c",
            "--classes c: is UTF-16; save it as UTF-8",
        ),
    ],
)
def test_paths_that_lead_nowhere_are_one_line(tmp_path: Path, line: str, message: str) -> None:
    done = shell(line, tmp_path)
    assert is_one_line(done, message), done.stderr


def test_classes_with_a_byte_order_mark_are_themselves(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join("9876543210").encode())
    words = [INGEST, "digits", "table", "--classes", "classes.txt", "--quiet"]
    done = command("python", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SPARK_HOME": "/nowhere"}, "SPARK_HOME=/nowhere holds no Spark; unset it"),
        ({"PYSPARK_PYTHON": "/nowhere"}, "PYSPARK_PYTHON=/nowhere is no program; unset it"),
        ({"JAVA_HOME": "/nowhere"}, "JAVA_HOME=/nowhere holds no Java; point it at Java 17 or 21"),
    ],
)
def test_what_keeps_spark_from_starting_is_named(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    done = command("python", OUTER, "--data", "digits", cwd=tmp_path, **variables)
    assert is_one_line(done, message), done.stderr
    assert not (tmp_path / "runs").exists()


def test_without_java_one_line_says_what_to_install(tmp_path: Path) -> None:
    """PATH holds what Spark's scripts need, but no Java."""
    (tmp_path / "bin").mkdir()
    for name in ("python", "bash", "dirname", "cat", "env", "ps", "uname"):
        found = subprocess.run(["which", name], env=environment(), capture_output=True, text=True, check=True)
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {found.stdout.strip()} "$@"\n')
        script.chmod(0o755)
    path = str(tmp_path / "bin")
    done = command(sys.executable, OUTER, "--data", "digits", cwd=tmp_path, PATH=path)
    assert is_one_line(done, "there is no Java; install 17 or 21"), done.stderr


def test_an_address_that_is_not_of_this_machine_does_no_harm_locally(tmp_path: Path) -> None:
    done = command(
        "python", OUTER, "--data", "digits", "--lambdas", "1", cwd=tmp_path, SPARK_LOCAL_IP="203.0.113.1"
    )
    assert done.returncode == 0, done.stderr
    done = command(
        "spark-submit", OUTER, "--data", "digits", "--lambdas", "1", cwd=tmp_path, SPARK_LOCAL_IP="203.0.113.1"
    )
    assert is_one_line(done, "SPARK_LOCAL_IP=203.0.113.1 is no address of this machine; unset it"), done.stderr


def test_spark_submit_is_told_an_address_if_the_name_of_the_machine_does_not_resolve(tmp_path: Path) -> None:
    """Before Java starts, spark-submit reads a file that the set-up has put into Spark's conf folder."""
    settings = ROOT / "spark_jobs" / "conf" / "spark-env.sh"
    (tmp_path / "hostname").write_text("#!/bin/sh\necho $NAME\n")
    (tmp_path / "hostname").chmod(0o755)
    line = f'PATH="{tmp_path}:$PATH"; . {shlex.quote(str(settings))}; echo "$SPARK_LOCAL_IP"'
    cases = (("no.invalid", "", "127.0.0.1"), ("localhost", "", ""), ("no.invalid", "10.0.0.1", "10.0.0.1"))
    for name, given, expected in cases:
        done = shell(line, tmp_path, NAME=name, SPARK_LOCAL_IP=given)
        assert done.stdout.strip() == expected, done.stderr


@pytest.mark.spark
def test_a_notebook_as_python_of_the_driver_stops_no_job(tmp_path: Path) -> None:
    """spark-submit asks PYSPARK_DRIVER_PYTHON where Spark is, and lets it run the job."""
    (tmp_path / "jupyter").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "jupyter").chmod(0o755)
    line = f'PATH="{tmp_path}:$PATH" spark-submit {OUTER} --lambdas 1 --quiet --out run'
    done = shell(line, tmp_path, PYSPARK_DRIVER_PYTHON="jupyter", PYSPARK_DRIVER_PYTHON_OPTS="notebook")
    assert done.returncode == 0, done.stderr
    assert "PYSPARK_DRIVER_PYTHON=jupyter is for notebooks and is ignored" in done.stderr
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_another_package_called_common_hides_nothing(tmp_path: Path) -> None:
    """The environment holds a .pth file that brings this project's packages first."""
    (tmp_path / "other" / "common").mkdir(parents=True)
    (tmp_path / "other" / "common" / "__init__.py").write_text("")
    (tmp_path / "site").mkdir()
    line = runpy.run_path(str(ROOT / ".ci" / "first.py"))["LINE"].format(root=str(ROOT))
    for folder, works in (("site", True), ("empty", False)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / "site" / "first.pth").write_text(line)
        script = f"import site; site.addsitedir({folder!r}); import common.console as c; print(c.__file__)"
        words = ["-c", f"import sys; sys.path.insert(1, 'other'); {script}"]
        done = command(sys.executable, *words, cwd=tmp_path)
        assert (done.returncode == 0) == works, done.stderr
        assert not works or Path(done.stdout.strip()).is_relative_to(ROOT)


NAMELESS = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]


@pytest.mark.spark
@pytest.mark.skipif(
    shutil.which(NAMELESS[0]) is None
    or bool(subprocess.run([*NAMELESS, "true"], stderr=subprocess.DEVNULL, check=False).returncode),
    reason="this machine lets nobody run as a user without a name (unshare --user)",
)
def test_a_user_without_a_name_has_jobs_that_need_no_spark_and_one_line_of_the_others(tmp_path: Path) -> None:
    homeless = {"HOME": "", "USER": "", "LOGNAME": ""}
    done = command(*NAMELESS, "python", SERIAL, "--lambdas", "1", "--quiet", cwd=tmp_path, **homeless)
    assert (done.returncode, done.stderr) == (0, "")
    reason = "Spark cannot start: user 54321 has no name in /etc/passwd, and Hadoop needs one"
    for line in (["spark-submit", OUTER], ["python", OUTER]):
        done = command(*NAMELESS, *line, "--lambdas", "1", "--quiet", cwd=tmp_path, **homeless)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert reason in done.stderr


def test_a_user_without_a_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getuid", lambda: 54321)
    with pytest.raises(InputError, match="user 54321 has no name in /etc/passwd"):
        start(SparkConf)
