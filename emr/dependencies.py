"""The packages that a cluster lacks, as one archive without symbolic links that every container unpacks.

A packed virtual environment would contain links to an interpreter that the cluster does not have. This archive
holds the wheels of `requirements.lock` for the cluster's platform and Python, unpacked side by side, for
`PYTHONPATH=deps`.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from common.atomic import write_atomically
from common.errors import InputError, RunError
from emr.package import ROOT
from emr.tarball import pack

FORMAT = 1
"""Version of the archive; incremented when the same wheels give a different archive."""

GLIBC = (2, 34)
"""Version of the C library in Amazon Linux 2023, on which emr-7 and emr-spark-8 are built."""

UNUSED = {"tests", "__pycache__", "bin", "include"}
"""Folders in packages from which no job imports."""

COMPRESSION = 4
"""Level of gzip. Most of the content is machine code, which a higher level makes only a little smaller."""

METADATA = re.compile(r"(?P<name>[^/]+)-(?P<version>[^/-]+)\.dist-info/WHEEL")
"""A wheel's description of itself, which lists its tags."""

PURE = re.compile(r"(py\d+|py2\.py3)-none-any")
"""Tags of wheels that run on every platform."""


def requirements() -> list[str]:
    """Return the requirements of Spark jobs: the project's dependencies, and of its extras what reads HDFS."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*map(str, project["dependencies"]), *map(str, project["optional-dependencies"]["hdfs"])]


def archive_name(python: str, architecture: str) -> str:
    """Return the name of an archive, which depends on its contents and is known before the archive is made."""
    lock = (ROOT / "requirements.lock").read_bytes()
    ingredients = repr((FORMAT, requirements(), python, architecture, GLIBC, sorted(UNUSED))).encode()
    return f"deps-{hashlib.sha256(lock + ingredients).hexdigest()[:16]}.tar.gz"


def dependencies_archive(folder: Path, python: str, architecture: str) -> Path:
    """Make the archive, unless `folder` contains it already; return its path.

    Args:
        folder: the folder that keeps archives.
        python: the cluster's major and minor version of Python, for example 3.11.
        architecture: x86_64 or aarch64.

    Raises:
        InputError: the archive is damaged, or holds a wheel for another platform or Python.
        RunError: pip cannot install the wheels.
    """
    archive = folder / archive_name(python, architecture)
    if not archive.exists():
        with tempfile.TemporaryDirectory(prefix="deps-") as target:
            _install(Path(target), python, architecture)
            folder.mkdir(parents=True, exist_ok=True)
            _pack(Path(target), archive)
    check_archive(archive, python, architecture)
    return archive


def platforms(architecture: str) -> list[str]:
    """Return the tags of wheels that run with the cluster's glibc, newest first (PEP 600)."""
    major, newest = GLIBC
    old = ["manylinux2014", *(["manylinux2010", "manylinux1"] if architecture == "x86_64" else [])]
    return [
        *(f"manylinux_{major}_{minor}_{architecture}" for minor in range(newest, 4, -1)),
        *(f"{tag}_{architecture}" for tag in old),
    ]


def _install(target: Path, python: str, architecture: str) -> None:
    """Install the wheels into `target`.

    Raises:
        RunError: pip fails.
    """
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    words += ["--target", str(target), "--only-binary", ":all:", "--implementation", "cp"]
    words += ["--python-version", python, "--constraint", str(ROOT / "requirements.lock")]
    for platform in platforms(architecture):
        words += ["--platform", platform]
    done = subprocess.run([*words, *requirements()], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise RunError(f"pip cannot install the packages for Python {python} on {architecture}: {errors[-1]}")


def _pack(source: Path, archive: Path) -> None:
    """Write the archive, whose bytes depend on nothing but the files in `source`."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    used = {
        path.relative_to(source).as_posix(): path
        for path in files
        if UNUSED.isdisjoint(path.relative_to(source).parts[:-1])
    }
    with write_atomically(archive) as file:
        pack(file, used, COMPRESSION)


def check_archive(archive: Path, python: str, architecture: str) -> None:
    """Check that an archive can be unpacked safely and fits a platform and a Python.

    Raises:
        InputError: the archive is damaged, or one of its files does not fit.
    """
    remedy = f"remove {archive} and try again"
    fits = re.compile(rf"cp{python.replace('.', '')}-|cp3\d+-abi3-|py3-none-")
    try:
        for entry, tags in _entries(archive):
            path = PurePosixPath(entry.name)
            if not entry.isfile():
                raise InputError(f"{archive}: {entry.name} is no regular file (links are refused); {remedy}")
            if path.is_absolute() or ".." in path.parts:
                raise InputError(f"{archive}: {entry.name} would be unpacked outside its folder; {remedy}")
            for tag in tags:
                if PURE.fullmatch(tag):
                    continue
                if not fits.match(tag):
                    raise InputError(f"{archive}: {entry.name} is for {tag}, not for Python {python}; {remedy}")
                if not tag.endswith(f"_{architecture}"):
                    raise InputError(f"{archive}: {entry.name} is for {tag}, not for {architecture}; {remedy}")
    except (OSError, EOFError, tarfile.TarError) as error:
        raise InputError(f"{archive}: cannot be read ({error}); {remedy}") from error


def _entries(archive: Path) -> Iterator[tuple[tarfile.TarInfo, list[str]]]:
    """Yield each entry of an archive; with a wheel's description of itself, also the tags that it lists."""
    with tarfile.open(archive, "r:gz") as tar:
        for entry in tar:
            tags = []
            if METADATA.fullmatch(entry.name) and (file := tar.extractfile(entry)):
                lines = file.read().decode().splitlines()
                tags = [line.removeprefix("Tag:").strip() for line in lines if line.startswith("Tag:")]
            yield entry, tags
