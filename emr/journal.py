"""What this machine remembers of a deployment, so that whatever ends it, the same line goes on with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.atomic import write_json
from common.errors import InputError
from emr.plan import Plan

FOLDER = ".emr"


@dataclass
class Journal:
    """A deployment that has not come to its end.

    Attributes:
        path: where it is kept.
        asked: when a cluster was asked for, or 0; from then on there may be one, whether or not an answer came.
        cluster: its id, once known.
        step: likewise.
        run: the run folder's name.
        deadline: when the step is to be cancelled, once it is known.
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
        """What is remembered of a deployment.

        Args:
            plan: what is deployed.
            cluster: on which cluster, if the user said so.

        Raises:
            InputError: it cannot be read.
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
        """Remember, before anything else is asked of AWS.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {name: value for name, value in asdict(self).items() if name != "path"})
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); mend that first") from error

    def forget(self) -> None:
        """The deployment has come to its end."""
        self.path.unlink(missing_ok=True)
