"""The local files that a job's flags name: what is shipped to the cluster, and the flags that name it there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from common.data.shipped import SHIPPED, expanded
from common.data.sources import TABLE, TABLE_SPEC, find_source, specs
from common.data.sources.source import LocalFiles, NamedSource
from common.data.table.table import FEATURES, MANIFEST
from common.errors import InputError
from common.features.spec import BESIDE, FROM, NETWORK, FeatureSpec
from common.run.flag_types import ValueRole
from common.run.parser import DESCRIBE
from emr.package import ROOT
from emr.tarball import pack

JOBS = ROOT / "spark_jobs"

MAX_BYTES = 8 << 30
"""Every node unpacks shipped files; more than this is better read from S3."""

COMPRESSION = 1
"""Level of gzip: photographs are compressed already, and the rest uploads fast."""

MODEL_FILES = "model.*"
"""The files of a model's run folder that are shipped."""

MAP_FILES = ("model.json", "model.npz", MANIFEST, FEATURES)
"""The files of a run folder or a table that hold a feature map."""

WILDCARDS = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class ShippedFiles:
    """Local files that travel with the job.

    Attributes:
        folder: the folder that they are unpacked into, below each process's working directory.
        files: local paths by their names in that folder.
    """

    folder: str
    files: dict[str, Path]

    def digest(self) -> str:
        """Return a SHA-256 of names, sizes and contents.

        Raises:
            InputError: a file cannot be read.
        """
        total = hashlib.sha256()
        try:
            for name, path in self.files.items():
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
                total.update(f"{name}\0{path.stat().st_size}\0{content}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}; make it readable") from error
        return total.hexdigest()

    def write(self, file: IO[bytes]) -> None:
        """Write the archive."""
        pack(file, self.files, COMPRESSION)


class Flag(NamedTuple):
    """A flag or a positional argument of a job.

    Attributes:
        name: "--data", or the metavar of a positional argument.
        takes_value: False for switches such as --grey.
        role: what its value stands for.
    """

    name: str
    takes_value: bool
    role: ValueRole


class JobFlags(NamedTuple):
    """The flags of a job, as its parser describes them.

    Attributes:
        flags: by each of their names.
        positional: the positional arguments, in order.
    """

    flags: dict[str, Flag]
    positional: list[Flag]

    @classmethod
    def of(cls, described: str) -> JobFlags:
        """Read the JSON that a job prints if JOB_DESCRIBE_FLAGS is set."""
        found = cls({}, [])
        for each in json.loads(described):
            takes_value, role = each["takes_value"], ValueRole(each["role"])
            if each["flags"]:
                found.flags.update({name: Flag(name, takes_value, role) for name in each["flags"]})
            else:
                found.positional.append(Flag(each["name"], takes_value, role))
        return found


@cache
def job_flags(script: Path) -> JobFlags:
    """Ask a job for its flags.

    Raises:
        InputError: it cannot be started.
    """
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, DESCRIBE: "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"{script}: does not describe its flags ({reason})")
    return JobFlags.of(done.stdout)


@dataclass
class JobInputs:
    """A job's flags as they are on the cluster, and the local files that they name.

    Attributes:
        words: the flags.
        shipped: the files that travel.
    """

    words: list[str] = field(default_factory=list)
    shipped: list[ShippedFiles] = field(default_factory=list)

    @classmethod
    def of(cls, job: str, words: Sequence[str], data_root: Path) -> JobInputs:
        """Read a job's flags.

        Args:
            job: its name.
            words: its flags, as they would be on this machine.
            data_root: the folder in which named sources live, unless --data-root names another.

        Raises:
            InputError: a flag names a file that does not exist, or one that the cluster cannot write.
        """
        flags, positional = _split(job, words)
        inputs = cls()
        for flag, value in flags:
            if value and flag.role == ValueRole.DATA_ROOT:
                data_root = Path(value)  # the last one counts, as for argparse
        for flag, value in flags:
            if flag.role == ValueRole.DATA_ROOT:
                continue  # the cluster's data root is a shipped folder, if it has one
            if value is None:
                inputs.words.append(flag.name)
            else:
                on_cluster = inputs._on_cluster(flag, value, data_root)
                inputs.words.append(f"{flag.name}={on_cluster}")
        inputs.words[:0] = [inputs._on_cluster(argument, value, data_root) for argument, value in positional]
        size = sum(path.stat().st_size for shipped in inputs.shipped for path in shipped.files.values())
        if size > MAX_BYTES:
            raise InputError(
                f"{size / 2**30:.1f} GiB of local files, and every node would unpack them, at most "
                f"{MAX_BYTES >> 30} GiB; copy them to S3 and name them there"
            )
        return inputs

    def _on_cluster(self, flag: Flag, value: str, data_root: Path) -> str:
        """Return the value of a flag on the cluster, and note the files that it needs there."""
        what, role = f"{flag.name} {value}", flag.role
        if role == ValueRole.SOURCE:
            return self._source(what, value, data_root)
        if role == ValueRole.INPUT:
            return value if "://" in value else self._ship(what, LocalFiles.at(expanded(Path(value))))
        if role == ValueRole.MODEL:
            if "://" in value:
                raise InputError(f"{what}: fetch that run folder, and name it here; it travels with the job")
            return self._ship(what, LocalFiles.at(expanded(Path(value)), MODEL_FILES))
        if role == ValueRole.FEATURES and value.startswith(FROM):
            return f"{FROM}{self._map(what, value.removeprefix(FROM))}"
        if role == ValueRole.FEATURES:
            return BESIDE.join(self._network(what, part) for part in value.split(BESIDE))
        if role == ValueRole.OUTPUT and "://" not in value:
            raise InputError(f"{what}: what a cluster writes here is gone with it; name an s3:// address")
        if role == ValueRole.RUN_FOLDER:
            raise InputError(f"{what}: the run folder comes to fetch_to of emr/cluster.toml by itself")
        return value

    def _source(self, what: str, spec: str, data_root: Path) -> str:
        """Return a data source as the cluster names it, and note its local files."""
        kind, _, path = spec.partition(":")
        found = find_source(spec)
        if "://" in spec:
            if found is not None:
                raise InputError(f"{what}: on S3, images are named by a glob: ingest 's3://bucket/photos/*/*.jpg'")
            return spec
        if WILDCARDS.search(spec):
            raise InputError(f"{what}: wildcards are for s3:// addresses; folder:PATH travels with the job")
        if kind == TABLE and path:
            return f"{kind}:{self._ship(what, LocalFiles.at(expanded(Path(path))))}"
        if found is None:
            raise InputError(f"{what}: no such source; use one of {specs(TABLE_SPEC)}")
        location = found.location(spec, data_root)
        files = found.local_files(expanded(location)) if location is not None else None
        if files is None:
            return spec
        shipped = self._ship(what, files)
        if isinstance(found, NamedSource):
            self.words.append(f"--data-root={shipped}")
            return spec
        return f"{kind}:{shipped}"

    def _map(self, what: str, saved: str) -> str:
        """Return where the cluster finds a saved feature map, and note its files."""
        if "://" in saved:
            raise InputError(f"{what}: fetch that run folder or file, and name it here; it travels with the job")
        path = expanded(Path(saved))
        local = LocalFiles.at(path)
        if path.is_dir():
            local = replace(local, tops=[path / name for name in MAP_FILES if (path / name).is_file()])
        return self._ship(what, local)

    def _network(self, what: str, spec: str) -> str:
        """Return a spec with its ONNX file where the cluster finds it, and note that file; others as they are."""
        if not spec.startswith(NETWORK):
            return spec
        request = FeatureSpec.parse(spec).network
        if request is None or not request.is_file:
            raise InputError(
                f"{what}: the cluster has no PyTorch to export a network with; "
                "python -m common.tools.export_network makes a file of it here, which travels with the job"
            )
        return spec.replace(request.name, self._ship(what, LocalFiles.at(expanded(Path(request.name)))), 1)

    def _ship(self, what: str, local: LocalFiles) -> str:
        """Note local files to ship, and return where the cluster finds them."""
        files = {path.relative_to(local.root).as_posix(): path for top in local.tops for path in _files(top)}
        if not files:
            raise InputError(f"{what}: no files at {local.tops[0] if local.tops else local.root}; {local.remedy}")
        folder = SHIPPED + (re.sub(r"[^a-z0-9]+", "-", local.name.lower()).strip("-") or "files")
        while folder in [other.folder for other in self.shipped]:
            folder += "-2"
        self.shipped.append(ShippedFiles(folder, files))
        return f"{folder}/{local.location}".rstrip("/")


def _split(job: str, words: Sequence[str]) -> tuple[list[tuple[Flag, str | None]], list[tuple[Flag, str]]]:
    """Return a job's flags with their values, in order, and its positional arguments.

    Raises:
        InputError: they are not the job's.
    """
    of_job = job_flags(JOBS / f"{job}.py")
    flags: list[tuple[Flag, str | None]] = []
    positional: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, equals, value = word.partition("=")
        flag = of_job.flags.get(name)
        if flag is None:
            raise InputError(f"{job}: {name} is none of its flags; --help lists them")
        if equals:
            flags.append((flag, value))
        else:
            flags.append((flag, next(remaining, None) if flag.takes_value else None))
    if len(positional) != len(of_job.positional):
        names = " and ".join(flag.name for flag in of_job.positional)
        raise InputError(f"{job}: give {names}" if names else f"{job}: {positional[0]!r} is none of its flags")
    return flags, list(zip(of_job.positional, positional, strict=True))


def _files(top: Path) -> Iterator[Path]:
    """Yield a file, or all files below a folder that are not hidden, in order."""
    if top.name.startswith("."):
        return
    if top.is_file():
        yield top
    for parent, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))
