"""The logs of the driver of a job run."""

from __future__ import annotations

from dataclasses import dataclass

from emr.logs import DRIVER_LOG, Logs


@dataclass
class JobRunLogs(Logs):
    """The logs of one job run, below a prefix of its own."""

    def texts(self) -> dict[str, str]:
        """Return the logs of the driver."""
        return self.below(self.prefix, DRIVER_LOG)
