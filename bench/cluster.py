"""A standalone Spark cluster on this machine: a master and workers, each in its own process, on loopback.

Beside it, how to submit a job to it, and what memory its executors take.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyspark

STARTED_S = 60
"""Seconds that a process may take to start."""


@contextmanager
def standalone_cluster(
    folder: Path,
    workers: int = 2,
    cores: int = 1,
    memory: str = "2g",
    environment: Mapping[str, str] | None = None,
    java: str = "",
) -> Iterator[str]:
    """Start a cluster, and stop it when the block ends.

    Args:
        folder: folder for logs and for the files of the workers.
        workers: the number of workers.
        cores: cores per worker.
        memory: memory per worker, for its executors.
        environment: environment of all processes, or None for the environment of this process.
        java: options of every Java virtual machine of the cluster, those of executors too.

    Yields:
        The address of the master.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "conf").mkdir()  # empty, so that this machine's configuration of Spark has no effect
    (folder / "conf" / "java-opts").write_text(java)
    clean = {**(environment or os.environ), "SPARK_CONF_DIR": str(folder / "conf"), "SPARK_LOCAL_IP": "127.0.0.1"}
    spark_class = Path(pyspark.__file__).parent / "bin" / "spark-class"
    with ExitStack() as stack:

        def start(name: str, *words: str) -> Path:
            log = folder / f"{name}.log"
            with log.open("w") as stderr:
                process = subprocess.Popen(
                    [spark_class, *words], cwd=folder, env=clean, stdout=subprocess.DEVNULL, stderr=stderr
                )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return log

        log = start(
            "master",
            "org.apache.spark.deploy.master.Master",
            *["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"],
        )
        master = _wait_for(log, r"Starting Spark master at (spark://\S+)")
        page = _wait_for(log, r"MasterWebUI.* at (http://\S+)")
        for i in range(workers):
            start(
                f"worker{i}",
                "org.apache.spark.deploy.worker.Worker",
                *f"--host 127.0.0.1 --cores {cores} --memory {memory} --webui-port 0".split(),
                *["--work-dir", f"{folder}/work{i}"],
                master,
            )
        _wait_for_workers(page, workers, folder)
        yield master


def submit(master: str, *words: str | Path, driver: str = "1g", executor: str = "2g") -> str:
    """Submit a script and return the last line that it printed.

    Args:
        master: the address of the cluster.
        words: the script and its flags.
        driver: memory of the driver.
        executor: memory of each executor.

    Raises:
        RuntimeError: the script failed.
    """
    done = subprocess.run(
        ["spark-submit", "--master", master, "--driver-memory", driver, "--executor-memory", executor, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"},
    )
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{done.stdout[-4000:]}")  # spark-submit prints both streams there
    return done.stdout.splitlines()[-1]


@contextmanager
def watched_memory(folder: Path) -> Iterator[dict[int, int]]:
    """Yield the peak memory, in bytes, of each process that works in a cluster's folder, by its id.

    It grows while the block runs. Files that a process maps into memory count.
    """
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for entry in Path("/proc").iterdir():
                with suppress(OSError, IndexError):  # the process may have ended
                    if entry.name.isdigit() and str(folder) in str((entry / "cwd").readlink()):
                        peak = re.findall(r"VmHWM:\s+(\d+) kB", (entry / "status").read_text())[0]
                        peaks[int(entry.name)] = int(peak) * 1024

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def _wait_for_workers(page: str, workers: int, folder: Path) -> None:
    deadline = time.monotonic() + STARTED_S
    while True:
        with urllib.request.urlopen(f"{page}/json/") as answer:  # noqa: S310
            if json.load(answer)["aliveworkers"] == workers:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers did not register; see {folder}/*.log")
        time.sleep(0.2)


def _wait_for(log: Path, pattern: str) -> str:
    """Return the group that a pattern captures, as soon as it matches in a log."""
    deadline = time.monotonic() + STARTED_S
    while time.monotonic() < deadline:
        found = re.search(pattern, log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise TimeoutError(log.read_text())
