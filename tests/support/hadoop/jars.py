"""The jars of Hadoop's servers, which Maven fetches once, checksums verified, into a cache outside the tree."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pyspark

POM = Path(__file__).with_name("pom.xml")
PYSPARK_JARS = Path(pyspark.__file__).parent / "jars"

NEEDS = "needs Maven and Java: apt-get install maven"
"""Why tests are skipped where there is no Maven."""


def has_maven() -> bool:
    """Return True if Maven and Java are installed."""
    return all(shutil.which(program) for program in ("mvn", "java"))


def class_path() -> str:
    """Return the class path of the servers; fetch what is missing.

    Raises:
        RuntimeError: Maven cannot fetch them.
    """
    key = hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallel-image-classification"
    jars = cache / f"hadoop-{key}"
    if not jars.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".hadoop-", dir=cache))
        words = ["mvn", "--quiet", "--batch-mode", "--strict-checksums", "--file", str(POM)]
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={staging}"]
        done = subprocess.run([*words, *goal], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            shutil.rmtree(staging)
            raise RuntimeError(f"Maven cannot fetch {POM}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        staging.rename(jars)
    clients = sorted(map(str, PYSPARK_JARS.glob("hadoop-client-*.jar")))
    return os.pathsep.join([f"{jars}/*", *clients])
