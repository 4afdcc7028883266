"""The packages a cluster lacks, as one archive without symbolic links that every container unpacks.

A packed virtual environment would hold links to an interpreter that is not there. These are the wheels of
`requirements.lock` for the cluster's platform and Python, unpacked side by side, for `PYTHONPATH=deps`.
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
from common.errors import InputError
from emr.package import ROOT
from emr.tarball import pack

FORMAT = 1
"""Counted up when the same wheels give another archive."""

GLIBC = (2, 34)
"""Amazon Linux 2023's, on which emr-7 and emr-spark-8 are built."""

UNUSED = {"tests", "__pycache__", "bin", "include"}
"""Folders of packages that no job imports from."""

COMPRESSION = 4
"""gzip's; most of it is machine code, which more effort makes little smaller."""

METADATA = re.compile(r"(?P<name>[^/]+)-(?P<version>[^/-]+)\.dist-info/WHEEL")
PURE = re.compile(r"(py\d+|py2\.py3)-none-any")


def requirements() -> list[str]:
    """What a job imports: the project's own dependencies, not those of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [str(requirement) for requirement in project["dependencies"]]


def archive_name(python: str, architecture: str) -> str:
    """Names an archive by what it is made from, so that it is known before it is made."""
    lock = (ROOT / "requirements.lock").read_bytes()
    made_from = repr((FORMAT, requirements(), python, architecture, GLIBC, sorted(UNUSED))).encode()
    return f"deps-{hashlib.sha256(lock + made_from).hexdigest()[:16]}.tar.gz"


def dependencies_archive(folder: Path, python: str, architecture: str) -> Path:
    """Make the archive, unless `folder` has it.

    Args:
        folder: where archives are kept.
        python: the cluster's minor version, for example 3.11.
        architecture: x86_64 or aarch64.

    Raises:
        InputError: pip cannot bring the wheels, or one is of another platform or Python.
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
    """Tags of wheels that run with the cluster's glibc, newest first (PEP 600)."""
    major, newest = GLIBC
    old = ["manylinux2014", *(["manylinux2010", "manylinux1"] if architecture == "x86_64" else [])]
    return [
        *(f"manylinux_{major}_{minor}_{architecture}" for minor in range(newest, 4, -1)),
        *(f"{tag}_{architecture}" for tag in old),
    ]


def _install(target: Path, python: str, architecture: str) -> None:
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    words += ["--target", str(target), "--only-binary", ":all:", "--implementation", "cp"]
    words += ["--python-version", python, "--constraint", str(ROOT / "requirements.lock")]
    for platform in platforms(architecture):
        words += ["--platform", platform]
    done = subprocess.run([*words, *requirements()], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise InputError(f"pip cannot bring the packages for Python {python} on {architecture}: {said[-1]}")


def _pack(source: Path, archive: Path) -> None:
    """A tar that is the same whenever it is made of the same files."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    used = {
        path.relative_to(source).as_posix(): path
        for path in files
        if UNUSED.isdisjoint(path.relative_to(source).parts[:-1])
    }
    with write_atomically(archive) as file:
        pack(file, used, COMPRESSION)


def check_archive(archive: Path, python: str, architecture: str) -> None:
    """Make sure that an archive can be unpacked anywhere, and holds packages for one platform and Python.

    Raises:
        InputError: says what is wrong, and with which file of it.
    """
    remedy = f"remove {archive} and try again"
    fits = re.compile(rf"cp{python.replace('.', '')}-|cp3\d+-abi3-|py3-none-")
    try:
        for entry, tags in _entries(archive):
            path = PurePosixPath(entry.name)
            if not entry.isfile():
                raise InputError(f"{archive}: {entry.name} is no regular file, which links are not; {remedy}")
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
    """What is in an archive, and of each wheel's own description the tags it was built for."""
    with tarfile.open(archive, "r:gz") as tar:
        for entry in tar:
            tags = []
            if METADATA.fullmatch(entry.name) and (file := tar.extractfile(entry)):
                lines = file.read().decode().splitlines()
                tags = [line.removeprefix("Tag:").strip() for line in lines if line.startswith("Tag:")]
            yield entry, tags
