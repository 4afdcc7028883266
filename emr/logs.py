"""A step's logs, which reach S3 minutes late and under one of several names."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from emr.bucket import Bucket

APPLICATION = re.compile(r"\bapplication_\d+_\d+\b")
FINISHED = re.compile(r"Finished task \S+ in stage (\d+)\.\d+ .*\((\d+)/(\d+)\)")
TRACEBACK = "Traceback (most recent call last):"
DRIVER_LOG = re.compile(r"/container_[^/]*_0*1/(stderr|stdout)[^/]*$")
"""Logs of the first container of an application, in which the driver runs."""

STEP_LOG = re.compile(r"/(controller|stderr|stdout|syslog)[^/]*$")
"""Logs of a step. Releases differ in the ending: stdout.gz, stdout.txt.gz, or none."""


@dataclass
class Logs:
    """The logs of one step.

    Attributes:
        bucket: the bucket that they are in.
        prefix: prefix of the cluster's logs, ending in a slash.
        step: the step's id.
    """

    bucket: Bucket
    prefix: str
    step: str
    _read: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    """By key: the version that was read, and its text."""

    def texts(self) -> dict[str, str]:
        """Return the texts that have arrived so far, by key: the logs of the step, then the logs of its driver."""
        found = self._below(f"{self.prefix}steps/{self.step}/", STEP_LOG)
        for name in sorted({name for text in found.values() for name in APPLICATION.findall(text)}):
            found |= self._below(f"{self.prefix}containers/{name}/", DRIVER_LOG)
        return found

    def _below(self, prefix: str, pattern: re.Pattern[str]) -> dict[str, str]:
        """Return the logs below a prefix whose keys match, by key; read only those that have changed."""
        found = {}
        for entry in self.bucket.objects(prefix):
            key, version = entry["Key"], f"{entry.get('ETag')} {entry.get('Size')}"
            if pattern.search(key):
                if self._read.get(key, ("", ""))[0] != version:
                    self._read[key] = (version, unpacked(self.bucket.read(key)))
                found[key] = self._read[key][1]
        return found


def unpacked(data: bytes) -> str:
    """Return the text of a log, compressed or not. Of a truncated one, return as much as can be read."""
    if data.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(data)
        except zlib.error:
            data = b""
    return data.decode("utf-8", "replace")


def progress(texts: dict[str, str]) -> str | None:
    """Return how far Spark's latest stage is, or None if the logs do not say so."""
    found = [match for text in texts.values() for match in FINISHED.findall(text)]
    if not found:
        return None
    stage, n_done, n_tasks = max(found, key=lambda match: (int(match[0]), int(match[1])))
    return f"stage {stage}: {n_done} of {n_tasks} tasks"


def failure_reason(texts: dict[str, str], job: str) -> str | None:
    """Return why a job failed: its own one-line error, else Python's last traceback, else None.

    Args:
        texts: logs by key.
        job: the job's name, with which its errors begin.
    """
    driver = [text for key, text in texts.items() if DRIVER_LOG.search(key)]
    for text in [*driver, *texts.values()]:
        error = re.search(rf"(?m)^{job}\.py: (?!warning).*(\n.*)*?(?=\n\d\d/|\n?\Z)", text)
        if error:
            return error[0].strip()
    for text in [*driver, *texts.values()]:
        _, found, rest = text.rpartition(TRACEBACK)
        if found:
            return TRACEBACK + _until_error(rest)
    return None


def _until_error(rest: str) -> str:
    """Return the rest of a traceback, which ends with the first line that is not indented."""
    kept = []
    for line in rest.splitlines():
        kept.append(line)
        if line and not line[0].isspace():
            break
    return "\n".join(kept)
