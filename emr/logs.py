"""A step's logs, which come to S3 minutes late and under one of several names."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from emr.bucket import Bucket

APPLICATION = re.compile(r"\bapplication_\d+_\d+\b")
FINISHED = re.compile(r"Finished task \S+ in stage (\d+)\.\d+ .*\((\d+)/(\d+)\)")
TRACEBACK = "Traceback (most recent call last):"
OF_DRIVER = re.compile(r"/container_[^/]*_0*1/(stderr|stdout)[^/]*$")
"""In the first container of an application, in which the driver is."""

INTERESTING = re.compile(r"/(controller|stderr|stdout|syslog)[^/]*$")
"""stdout.gz, stdout.txt.gz, or without an ending: releases differ."""


@dataclass
class Logs:
    """The logs of one step.

    Attributes:
        bucket: where they are.
        prefix: the cluster's, ending in a slash.
        step: the step's id.
    """

    bucket: Bucket
    prefix: str
    step: str
    _read: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def texts(self) -> dict[str, str]:
        """What is there by now, by key: the step's own logs, then those of its driver."""
        found = self._below(f"{self.prefix}steps/{self.step}/", INTERESTING)
        for name in sorted({name for text in found.values() for name in APPLICATION.findall(text)}):
            found |= self._below(f"{self.prefix}containers/{name}/", OF_DRIVER)
        return found

    def _below(self, prefix: str, wanted: re.Pattern[str]) -> dict[str, str]:
        """Logs below a prefix; what has not changed since the last time is not read again."""
        found = {}
        for entry in self.bucket.objects(prefix):
            key, tag = entry["Key"], f"{entry.get('ETag')} {entry.get('Size')}"
            if wanted.search(key):
                if self._read.get(key, ("", ""))[0] != tag:
                    self._read[key] = (tag, unpacked(self.bucket.read(key)))
                found[key] = self._read[key][1]
        return found


def unpacked(data: bytes) -> str:
    """The text of a log, packed or not; one that is cut off as far as it goes."""
    if data.startswith(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            data = unpacker.decompress(data)
        except zlib.error:
            data = b""
    return data.decode("utf-8", "replace")


def progress(texts: dict[str, str]) -> str | None:
    """How far Spark's latest stage is, if its log says so."""
    found = [match for text in texts.values() for match in FINISHED.findall(text)]
    if not found:
        return None
    stage, done, all_ = max(found, key=lambda match: (int(match[0]), int(match[1])))
    return f"stage {stage}: {done} of {all_} tasks"


def reason(texts: dict[str, str], job: str) -> str | None:
    """Why a job failed: its own one-line error, or else the last traceback of Python.

    Args:
        texts: logs by key.
        job: its name, with which its errors begin.
    """
    driver = [text for key, text in texts.items() if OF_DRIVER.search(key)]
    for text in [*driver, *texts.values()]:
        own = re.search(rf"(?m)^{job}\.py: (?!warning).*(\n.*)*?(?=\n\d\d/|\n?\Z)", text)
        if own:
            return own[0].strip()
    for text in [*driver, *texts.values()]:
        _, found, rest = text.rpartition(TRACEBACK)
        if found:
            return TRACEBACK + _until_error(rest)
    return None


def _until_error(rest: str) -> str:
    """A traceback ends with the first line that is not indented."""
    kept = []
    for line in rest.splitlines():
        kept.append(line)
        if line and not line[0].isspace():
            break
    return "\n".join(kept)
