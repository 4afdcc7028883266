"""The logs of a step and of its driver, under one of several names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from emr.logs import DRIVER_LOG, Logs

APPLICATION = re.compile(r"\bapplication_\d+_\d+\b")

STEP_LOG = re.compile(r"/(controller|stderr|stdout|syslog)[^/]*$")
"""Logs of a step. Releases differ in the ending: stdout.gz, stdout.txt.gz, or none."""


@dataclass
class StepLogs(Logs):
    """The logs of one step.

    Attributes:
        step: the step's id.
    """

    step: str

    def texts(self) -> dict[str, str]:
        """Return the logs of the step, then the logs of its driver."""
        found = self.below(f"{self.prefix}steps/{self.step}/", STEP_LOG)
        for name in sorted({name for text in found.values() for name in APPLICATION.findall(text)}):
            found |= self.below(f"{self.prefix}containers/{name}/", DRIVER_LOG)
        return found
