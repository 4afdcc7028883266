"""Logs on S3, which arrive minutes late, and what they say about a job."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from emr.bucket import Bucket

FINISHED = re.compile(r"Finished task \S+ in stage (\d+)\.\d+ .*\((\d+)/(\d+)\)")
OVER_MEMORY = re.compile(
    r"(?P<executor>Container killed by YARN for exceeding physical memory limits\. )?"
    r"(?P<used>[\d.]+ [KMGT]?B of [\d.]+ [KMGT]?B) physical memory used"
)
"""Matches the line about an executor or a driver that YARN killed for its memory."""

HEAP_FULL = re.compile(r"ExecutorLostFailure .*Exit status: 143\.")
"""Matches the line about an executor whose heap was full: Spark has Java end itself then, with this status."""

DRIVER_KILLED = re.compile(r"due to AM Container for \S+ exited with +exitCode: (137|143|-100)\b")
"""Matches YARN's line about a driver that somebody, or the loss of its node, has killed."""

TRACEBACK = "Traceback (most recent call last):"
DRIVER_LOG = re.compile(r"/(container_[^/]*_0*1|SPARK_DRIVER)/(stderr|stdout)[^/]*$")
"""Logs of the driver: of the first container of an application of YARN, or of the driver of a job run."""


@dataclass
class Logs(ABC):
    """The logs of a step or a job run.

    Attributes:
        bucket: the bucket that they are in.
        prefix: prefix of their keys, ending in a slash.
    """

    bucket: Bucket
    prefix: str
    _read: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False, kw_only=True)
    """By key: the version that was read, and its text."""

    @property
    def address(self) -> str:
        """The address on S3 below which they lie."""
        return f"s3://{self.bucket.name}/{self.prefix}"

    @abstractmethod
    def texts(self) -> dict[str, str]:
        """Return the texts that have arrived so far, by key."""

    def below(self, prefix: str, pattern: re.Pattern[str]) -> dict[str, str]:
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
    """Return why a job failed: its own one-line error, else Python's last traceback, else YARN's, else None.

    Args:
        texts: logs by key.
        job: the job's name, with which its errors begin.
    """
    driver = [text for key, text in texts.items() if DRIVER_LOG.search(key)]
    every = [*driver, *texts.values()]
    for text in every:
        error = re.search(rf"(?m)^{job}\.py: (?!warning).*(\n.*)*?(?=\n\d\d/|\n?\Z)", text)
        if error:
            return _out_of_memory(error[0], job) or error[0].strip()
    for text in every:  # a driver that was killed has no error of its own
        if reason := _out_of_memory(text, job):
            return reason
    for text in every:
        _, found, rest = text.rpartition(TRACEBACK)
        if found:
            return TRACEBACK + _until_error(rest)
    for text in every:
        if killed := DRIVER_KILLED.search(text):
            return f"{job}.py: the driver was killed (exit status {killed[1]}) and has no results; run it again"
    return None


def _out_of_memory(text: str, job: str) -> str | None:
    """Return which setting to raise, if a log or an error says that memory was too little."""
    if killed := OVER_MEMORY.search(text):
        who = "executor" if killed["executor"] else "driver"
        used = f"{job}.py: YARN killed the {who}, which used {killed['used']} of its memory"
        return f"{used}; raise spark.{who}.memoryOverhead, or take larger machines"
    if HEAP_FULL.search(text):
        return f"{job}.py: an executor's heap was full (exit status 143); raise spark.executor.memory"
    return None


def _until_error(rest: str) -> str:
    """Return the rest of a traceback, which ends with the first line that is not indented."""
    kept = []
    for line in rest.splitlines():
        kept.append(line)
        if line and not line[0].isspace():
            break
    return "\n".join(kept)
