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
        asked: when a cluster was requested, or 0. From then on there may be one, whether or not an answer came.
        cluster: the cluster's id; "" until it is known.
        step: the step's id; "" until it is known.
        run: the run folder's name.
        deadline: when the step is to be cancelled; 0 until it is known.
        owned: whether the cluster is this deployment's to terminate.
    """

    path: Path = field(repr=False)
    asked: float = 0.0
    cluster: str = ""
    step: str = ""
    run: str = ""
    deadline: float = 0.0
    owned: bool = True

    @classmethod
    def of(cls, plan: Plan, cluster: str = "") -> Journal:
        """Load the journal of a deployment, or return an empty one.

        Args:
            plan: the deployment.
            cluster: id of the cluster to submit to, if the user names one.

        Raises:
            InputError: the file cannot be read.
        """
        name = "-".join([cluster or plan.cluster_key, *plan.step_name.split()])
        path = Path(plan.settings.fetch_to) / FOLDER / f"{name}.json"
        try:
            return cls(path, **json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls(path, cluster=cluster, owned=not cluster)
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
