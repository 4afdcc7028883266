"""The job of a deployment and the files that it needs on S3, whatever the target."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from common.atomic import write_whole
from common.errors import RunError
from emr.dependencies import archive_name, dependencies_archive
from emr.inputs import JobInputs, ShippedFiles
from emr.package import ROOT, zipped_project
from emr.settings import Settings

SPARE_MINUTES = 10
"""Minutes after the timeout at which a job that nobody follows ends itself."""

DEPS = "deps"
"""Folder into which the archive of dependencies is unpacked."""


@dataclass(frozen=True)
class Artefact:
    """A file that a deployment needs on S3.

    Attributes:
        what: a name for people.
        key: the object's key, derived from the content, so that unchanged files are not uploaded again.
        make: makes the file, in the given folder or elsewhere, and returns its path.
    """

    what: str
    key: str
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class Plan(ABC):
    """A job and what it runs on.

    Attributes:
        settings: the user's settings.
        region: the region's name.
        bucket: the bucket for everything that goes to S3.
        account: the account's number.
        owner: ARN of the caller.
        artefacts: files needed on S3: project, script, dependencies, and shipped files.
        words: the job's flags as they are where it runs.
        shipped: the shipped files, in the order of their artefacts.
    """

    settings: Settings
    region: str
    bucket: str
    account: str
    owner: str
    artefacts: tuple[Artefact, ...]
    words: tuple[str, ...]
    shipped: tuple[ShippedFiles, ...] = field(repr=False)

    @classmethod
    def of(
        cls, settings: Settings, region: str, account: str, owner: str, data_root: Path, packages: Path
    ) -> Self:
        """Make the plan, without asking AWS.

        Args:
            settings: the user's settings.
            region: the region's name.
            account: the account's number, part of the default bucket's name.
            owner: ARN of the caller.
            data_root: the folder of named data sets.
            packages: the folder that keeps archives of dependencies on this machine.

        Raises:
            InputError: the job's flags name files that do not exist.
        """
        inputs = JobInputs.of(settings.job, settings.words, data_root)
        name = f"{settings.job}.py"
        # kept: a file that is edited from now on must not be uploaded under this digest
        project, script = zipped_project(), (ROOT / "spark_jobs" / name).read_bytes()
        python, architecture = settings.python, settings.processor
        code, data = f"{settings.prefix}/artefacts", f"{settings.prefix}/data"
        deps = archive_name(python, architecture)
        artefacts = [
            Artefact(
                "project",
                f"{code}/{digest(project)}/project.zip",
                lambda folder: write_whole(folder / "project.zip", project),
            ),
            Artefact(
                "script", f"{code}/{digest(script)}/{name}", lambda folder: write_whole(folder / name, script)
            ),
            Artefact("packages", f"{code}/{deps}", lambda _: dependencies_archive(packages, python, architecture)),
            *(
                Artefact(files.folder, f"{data}/{sha256[:16]}/{files.folder}.tar.gz", _packer(files, sha256))
                for files, sha256 in ((files, files.digest()) for files in inputs.shipped)
            ),
        ]
        return cls(
            settings,
            region,
            settings.bucket_in(account, region),
            account,
            owner,
            tuple(artefacts),
            tuple(inputs.words),
            tuple(inputs.shipped),
        )

    def address(self, key: str) -> str:
        """Return the s3:// address of a key."""
        return f"s3://{self.bucket}/{key}"

    @property
    @abstractmethod
    def host_key(self) -> str:
        """Key of the host: the same for the same owner and settings, so that a retry finds its host."""

    @property
    @abstractmethod
    def work_name(self) -> str:
        """Name of the work: the same for the same code with the same flags and data."""

    @abstractmethod
    def machines(self) -> str:
        """Return the machines as text for people."""

    @abstractmethod
    def check(self, starts_host: bool) -> None:
        """Check what the service would refuse.

        Args:
            starts_host: whether a host is started, whose machines are those of the settings.

        Raises:
            InputError: it would; the message says what to change.
        """

    def new_run(self, at: float) -> str:
        """Return a name for a run folder.

        Args:
            at: when the run begins, in seconds since the epoch.
        """
        data = next((word for word in self.words if word.startswith("--data=")), "").removeprefix("--data=")
        kind = f"-{data.partition(':')[0]}" if data else ""
        key = self.work_name.split()[1]
        return f"{self.settings.job}{kind}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(at))}-{key[:4]}"

    @property
    def table(self) -> str | None:
        """Address of the table that ingest writes instead of a run folder; None for other jobs."""
        return self.words[1] if self.settings.job == "ingest" else None

    def environment(self) -> dict[str, str]:
        """Return variables of every Python process of the job."""
        return {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region, "PYTHONPATH": DEPS}

    def files(self) -> list[str]:
        """Return the flags of spark-submit that bring the project and the archives."""
        project, _, deps, *archives = (self.address(artefact.key) for artefact in self.artefacts)
        folders = [DEPS, *(files.folder for files in self.shipped)]
        unpacked = [f"{archive}#{name}" for archive, name in zip([deps, *archives], folders, strict=True)]
        return ["--py-files", project, "--archives", ",".join(unpacked)]

    @property
    def script(self) -> str:
        """Address of the job's script."""
        return self.address(self.artefacts[1].key)

    def job_words(self, run: str) -> list[str]:
        """Return the job's flags, with the run folder to write."""
        words = [*self.words]
        return words if self.table else [*words, f"--out={self.address(self.settings.runs + run)}"]


def _packer(files: ShippedFiles, expected: str) -> Callable[[Path], Path]:
    """Return a function that packs shipped files in a folder, and checks that they still have this digest."""

    def pack(folder: Path) -> Path:
        path = folder / f"{files.folder}.tar.gz"
        with path.open("wb") as file:
            files.write(file)
        if files.digest() != expected:  # every later deployment would take the archive for the old content
            raise RunError(f"{files.folder}: its files changed while they were packed; try again")
        return path

    return pack


def digest(data: bytes) -> str:
    """Return a short digest, for names."""
    return hashlib.sha256(data).hexdigest()[:16]
