"""The user's own files among a job's flags: which have to travel, and what the flags are called on the cluster."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from common.data.shipped import CARRIED
from common.data.sources import AT_PATH, NAMED, SPECS, TABLE
from common.errors import InputError
from emr.tarball import pack

MAX_BYTES = 8 << 30
"""Every node unpacks what travels; more than this is better read from S3 where it is."""

COMPRESSION = 1
"""gzip's: photographs are compressed already, and the rest is soon uploaded."""

WITHOUT_VALUE = {"--grey", "--quiet", "--scores"}
"""Flags of jobs that take none."""

ON_DISK = ("mnist",)
"""Named sets that live below --data-root."""

WILDCARDS = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class Carried:
    """Files that travel with the job.

    Attributes:
        folder: what they are unpacked into, below each process's working directory.
        files: by their names in that folder.
    """

    folder: str
    files: dict[str, Path]

    def digest(self) -> str:
        """Tells contents apart: SHA-256 over names, sizes and contents.

        Raises:
            InputError: a file cannot be read.
        """
        total = hashlib.sha256()
        try:
            for name, path in self.files.items():
                with path.open("rb") as file:
                    own = hashlib.file_digest(file, "sha256").hexdigest()
                total.update(f"{name}\0{path.stat().st_size}\0{own}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}; make it readable") from error
        return total.hexdigest()

    def write(self, file: IO[bytes]) -> None:
        """Write the archive."""
        pack(file, self.files, COMPRESSION)


@dataclass
class Inputs:
    """A job's flags as they are on the cluster, and the files they name.

    Attributes:
        words: the flags.
        carried: what travels.
    """

    words: list[str] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)

    @classmethod
    def of(cls, job: str, words: Sequence[str], data_root: Path) -> Inputs:
        """Read a job's flags.

        Args:
            job: its name.
            words: its flags, as they would be on this machine.
            data_root: where named sets live, unless --data-root says so.

        Raises:
            InputError: a flag names what is not there, or what the cluster cannot write.
        """
        flags, positional = _split(words)
        data_root = Path(dict(flags).get("--data-root") or data_root)
        inputs = cls()
        on_cluster: dict[str, Callable[[str], str]] = {
            "--data": lambda spec: inputs.source(f"--data {spec}", spec, data_root),
            "--model": lambda place: inputs.place(f"--model {place}", _local(place), "model.*"),
            "--classes": lambda place: inputs.place(f"--classes {place}", place),
            "--add-moments": lambda place: inputs.place(f"--add-moments {place}", place),
            "--subtract-moments": lambda place: inputs.place(f"--subtract-moments {place}", place),
            "--save-moments": lambda place: _address(f"--save-moments {place}", place),
        }
        for flag, value in flags:
            if flag == "--out":
                raise InputError(f"--out {value}: the run folder comes to fetch_to of emr/cluster.toml by itself")
            if flag != "--data-root":
                value = on_cluster.get(flag, str)(value) if value is not None else None
                inputs.words += [flag] if value is None else [f"{flag}={value}"]
        if job == "ingest":
            if len(positional) != 2:
                raise InputError("ingest: give SOURCE and DEST, DEST being an s3:// address")
            source, destination = positional
            positional = [inputs.source(source, source, data_root), _address(f"DEST {destination}", destination)]
        inputs.words[:0] = positional
        size = sum(path.stat().st_size for carried in inputs.carried for path in carried.files.values())
        if size > MAX_BYTES:
            raise InputError(
                f"{size / 2**30:.1f} GiB of local files, and every node would unpack them, at most "
                f"{MAX_BYTES >> 30} GiB; copy them to S3 and name them there"
            )
        return inputs

    def source(self, what: str, spec: str, data_root: Path) -> str:
        """A data source as the cluster sees it."""
        kind, _, place = spec.partition(":")
        if spec in ON_DISK:
            remedy = "`make data` downloads it, and --data-root or $IMAGE_DATA_ROOT say where it is"
            root = self._carry(what, "data", data_root, [data_root / spec], remedy)
            self.words.append(f"--data-root={root}")
            return spec
        if "://" in spec:
            if kind in AT_PATH:
                raise InputError(f"{what}: on S3, images are named by a glob: ingest 's3://bucket/photos/*/*.jpg'")
            return spec
        if WILDCARDS.search(spec):
            raise InputError(f"{what}: wildcards are for s3:// addresses; folder:PATH travels with the job")
        if spec in NAMED:
            return spec  # bundled
        if kind not in {*AT_PATH, TABLE} or not place:
            raise InputError(f"{what}: no such source; use one of {SPECS}")
        return f"{kind}:{self.place(what, place)}"

    def place(self, what: str, place: str, pattern: str = "*") -> str:
        """A file or folder as the cluster sees it."""
        if "://" in place:
            return place
        path = Path(place).expanduser()
        if path.is_dir():
            return self._carry(what, path.resolve().name, path, sorted(path.glob(pattern)), "name another")
        # metadata name images beside them; everything else stands for itself
        beside = sorted(path.parent.iterdir()) if path.suffix == ".json" and path.is_file() else [path]
        return f"{self._carry(what, path.stem, path.parent, beside, 'name another')}/{path.name}"

    def _carry(self, what: str, name: str, root: Path, tops: Sequence[Path], remedy: str) -> str:
        files = {path.relative_to(root).as_posix(): path for top in tops for path in _files(top)}
        if not files:
            raise InputError(f"{what}: no files at {tops[0] if tops else root}; {remedy}")
        folder = CARRIED + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "files")
        while folder in [other.folder for other in self.carried]:
            folder += "-2"
        self.carried.append(Carried(folder, files))
        return folder


def _split(words: Sequence[str]) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Flags with their values, in order, and what is no flag."""
    flags: list[tuple[str, str | None]] = []
    positional: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if not word.startswith("--"):
            positional.append(word)
        elif "=" in word:
            flag, _, value = word.partition("=")
            flags.append((flag, value))
        else:
            flags.append((word, None if word in WITHOUT_VALUE else next(waiting, None)))
    return flags, positional


def _local(place: str) -> str:
    if "://" in place:
        raise InputError(f"--model {place}: fetch that run folder, and name it here; it travels with the job")
    return place


def _address(what: str, place: str) -> str:
    if "://" not in place:
        raise InputError(f"{what}: what a cluster writes here is gone with it; name an s3:// address")
    return place


def _files(top: Path) -> Iterator[Path]:
    """A file, or all below a folder that are not hidden, in order."""
    if top.name.startswith("."):
        return
    if top.is_file():
        yield top
    for parent, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))
