"""Jobs as users start them: by spark-submit, on this machine and on a standalone cluster."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from emr.package import project_zip
from tests.support.cluster import Cluster
from tests.support.jobs import command, metrics_of
from tests.support.places import ROOT

pytestmark = pytest.mark.spark


def submit(*words: str | Path, cwd: Path, **more: str) -> dict[str, object]:
    done = command("spark-submit", *words, "--out", "run", cwd=cwd, **more)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == f"report: {cwd}/run/report.html"
    return metrics_of(cwd / "run")


def test_the_line_as_typed_prints_where_its_report_is(tmp_path: Path) -> None:
    (tmp_path / "spark_jobs").symlink_to(ROOT / "spark_jobs")
    done = command("spark-submit", "spark_jobs/outer.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = re.fullmatch(r"report: (/.*/report\.html)", done.stdout.splitlines()[-1])
    assert report
    assert Path(report[1]).is_file()
    assert Path(report[1]).parent.parent == tmp_path / "runs"
    assert [line for line in done.stderr.splitlines() if "incubator modules" not in line] == []
    metrics = metrics_of(Path(report[1]).parent)
    assert metrics["command"] == "spark-submit spark_jobs/outer.py" or metrics["command"].endswith("/outer.py")
    assert metrics["test_accuracy"] > 0.9
    assert len(metrics["lambda_seconds"]) == 10


@pytest.mark.mnist
def test_mnist_on_a_standalone_cluster_from_the_zip(
    cluster: Cluster, tmp_path: Path, data_root: Path, serial_mnist: Path
) -> None:
    """The project is installed neither for the driver nor for workers: it comes from the zip."""
    archive = project_zip(tmp_path / "project.zip")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    libraries = {"PYTHONPATH": str(Path(pyspark.__file__).parent.parent), "PYSPARK_PYTHON": str(python)}
    alone = command(python, "-c", "import numpy, PIL, common", cwd=tmp_path, **libraries)
    assert "No module named 'common'" in alone.stderr

    page = (ROOT / "docs" / "how-to" / "spark-cluster.md").read_text()
    line = re.search(r"^spark-submit --master .*$", page, re.MULTILINE)
    assert line
    assert "spark_jobs/gram.py" in line[0]
    actual = {
        "spark://HOST:7077": cluster.master,
        "dist/project.zip": str(archive),
        "/shared/data": str(data_root),
    }
    sizes = ["--driver-memory", "1g", "--executor-memory", "1g", "--conf", "spark.driver.host=127.0.0.1"]
    sizes += ["--conf", f"spark.executorEnv.PYTHONPATH={libraries['PYTHONPATH']}"]
    words = [actual.get(word, word) for word in shlex.split(line[0])]
    words[words.index("spark_jobs/gram.py")] = str(ROOT / "spark_jobs" / "gram.py")
    metrics = submit(*sizes, *words[1:], cwd=tmp_path, SPARK_LOCAL_IP="127.0.0.1", **libraries)
    for key in ("validation_correct", "best_lambda", "test_accuracy", "images"):
        assert metrics[key] == metrics_of(serial_mnist)[key], key
    assert metrics["workers"] == 2
    assert cluster.master in str(metrics["engine"])


@pytest.mark.mnist
def test_the_serial_fit_of_mnist_keeps_to_its_memory_bound(tmp_path: Path, data_root: Path) -> None:
    """The peak is below three times the uint8 images plus 200 MB, so there is no float64 copy of X."""
    script = (
        "import sys; from spark_jobs import serial; serial.main(sys.argv[1:]); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    flags = ["--data", "mnist", "--data-root", data_root, "--quiet", "--out", "run"]
    done = command(sys.executable, "-c", script, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.splitlines()[-1]) * 1024
    assert peak < 3 * 60_000 * 28 * 28 + 200e6


def test_a_failing_task_shows_the_workers_traceback_and_exits_with_1(tmp_path: Path) -> None:
    """The Python error of a worker is shown once, without the stack trace of the JVM."""
    script = tmp_path / "job.py"
    script.write_text(
        "from common.console import Console\n"
        "from spark_jobs.engine.session import run_spark_job, spark_context\n"
        "def main():\n"
        "    with spark_context('failing', Console()) as context:\n"
        "        return context.parallelize([0], 1).map(lambda x: 1 // x).first()\n"
        "run_spark_job(main)\n"
    )
    done = command(sys.executable, script, cwd=tmp_path)
    assert done.returncode == 1
    message = done.stderr[done.stderr.index("job.py: a task failed on a worker") :]
    assert message.rstrip().endswith("ZeroDivisionError: integer division or modulo by zero")
    assert "\tat org.apache" not in message


def test_a_job_ends_itself_after_the_time_it_was_given(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import time\nfrom spark_jobs.engine.session import run_spark_job\nrun_spark_job(lambda: time.sleep(60))\n"
    )
    done = command(sys.executable, script, cwd=tmp_path, timeout=30, JOB_MINUTES="0.01")
    assert (done.returncode, done.stderr) == (1, "job.py: took longer than 0.01 minutes\n")
