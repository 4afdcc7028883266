"""Jars of Hadoop's, which Maven fetches once, checksums verified, into a cache outside the tree."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.support.java import SPARK

SERVERS, S3A = (Path(__file__).with_name(f"{name}.xml") for name in ("servers", "s3a"))
PYSPARK_JARS = SPARK / "jars"

NEEDS = "needs Maven and Java: apt-get install maven"
"""Why tests are skipped where there is no Maven."""

VERSION = re.compile(r"-[0-9][^-]*(-[a-z_0-9-]+)?\.jar$")


def has_maven() -> bool:
    """Return True if Maven and Java are installed."""
    return all(shutil.which(program) for program in ("mvn", "java"))


def class_path() -> str:
    """Return the class path of Hadoop's servers and command lines; fetch what is missing.

    Raises:
        RuntimeError: Maven cannot fetch them.
    """
    clients = sorted(map(str, PYSPARK_JARS.glob("hadoop-client-*.jar")))
    return os.pathsep.join([f"{_fetched(SERVERS)}/*", f"{_fetched(S3A)}/*", *clients])


def s3a_jars() -> list[str]:
    """Return the jars that Spark lacks to read and write s3a://; fetch what is missing.

    Raises:
        RuntimeError: Maven cannot fetch them.
    """
    there = {_artifact(jar) for jar in PYSPARK_JARS.glob("*.jar")}
    return sorted(str(jar) for jar in _fetched(S3A).glob("*.jar") if _artifact(jar) not in there)


def _artifact(jar: Path) -> str:
    """Return the name of a jar without its version."""
    return VERSION.sub("", jar.name)


@cache
def _fetched(pom: Path) -> Path:
    """Return the folder with the jars that a POM names; fetch them if it is not there.

    Raises:
        RuntimeError: Maven cannot fetch them.
    """
    key = hashlib.sha256(pom.read_bytes()).hexdigest()[:16]
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parallel-image-classification"
    jars = kept / f"{pom.stem}-{key}"
    if not jars.is_dir():
        kept.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".jars-", dir=kept))
        words = ["mvn", "--quiet", "--batch-mode", "--strict-checksums", "--file", str(pom)]
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={staging}"]
        done = subprocess.run([*words, *goal], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            shutil.rmtree(staging)
            raise RuntimeError(f"Maven cannot fetch {pom}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        try:
            staging.rename(jars)
        except OSError:  # another process was first
            shutil.rmtree(staging)
    return jars
