"""A record of an unfinished deployment on this machine, so that the same command can continue it after any end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.atomic import write_json
from common.errors import InputError, RunError
from emr.plan import Plan

FOLDER = ".emr"


@dataclass
class Journal:
    """A deployment that has not finished.

    Attributes:
        path: the journal's file.
        asked: when a host was requested, or 0. From then on there may be one, whether or not an answer came.
        host: the id of the cluster or application; "" until it is known.
        work: the id of the step or job run; "" until it is known.
        run: the run folder's name.
        deadline: when the work is to be cancelled; 0 until it is known.
        owned: whether the host is this deployment's to end.
        ended: how the work ended, if it was done or failed: code, reason, and whether the job itself failed.
    """

    path: Path = field(repr=False)
    asked: float = 0.0
    host: str = ""
    work: str = ""
    run: str = ""
    deadline: float = 0.0
    owned: bool = True
    ended: tuple[int, str, bool] | None = None

    @classmethod
    def of(cls, plan: Plan, host: str = "") -> Journal:
        """Load the journal of a deployment, or return an empty one.

        Args:
            plan: the deployment.
            host: id of the host to submit to, if the user names one.

        Raises:
            InputError: the file cannot be read.
        """
        name = "-".join([host or plan.host_key, *plan.work_name.split()])
        path = Path(plan.settings.fetch_to) / FOLDER / f"{name}.json"
        try:
            return cls(path, **json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(path, host=host, owned=not host)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); `make emr-list` shows what runs") from error

    def save(self) -> None:
        """Write the file. Call this before the next request to AWS.

        Raises:
            RunError: the file cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {name: value for name, value in asdict(self).items() if name != "path"})
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}); mend that first") from error

    def forget(self) -> None:
        """Remove the file, because the deployment has finished."""
        self.path.unlink(missing_ok=True)
