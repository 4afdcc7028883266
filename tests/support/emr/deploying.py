"""Deployments on scripted services, each as if in a process of its own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from emr.deploy import Deployment
from emr.ec2.clusters import Clusters
from emr.ec2.plan import ClusterPlan
from emr.serverless.applications import Applications
from emr.serverless.plan import ApplicationPlan
from emr.settings import load_settings, settings_flags
from tests.support.emr.cloud import ACCOUNT, REGION
from tests.support.emr.scripted import Scripted
from tests.support.emr.scripted_serverless import ScriptedServerless
from tests.support.emr.services import OWNER

TRACEBACK = """\
gram.py: a task failed on a worker
Traceback (most recent call last):
  File "worker.py", line 1, in <module>
    1 / 0
ZeroDivisionError: division by zero
"""


class RecordingReporter:
    """Records the messages of a deployment.

    Args:
        stops: the answer to the question whether to stop.

    Attributes:
        messages: all messages, in order.
    """

    def __init__(self, stops: bool = True) -> None:
        self.messages: list[str] = []
        self.stops = stops

    def info(self, text: str) -> None:
        self.messages.append(text)

    def error(self, text: str) -> None:
        self.messages.append(text)

    def status(self, text: str) -> None:
        self.messages.append(text)

    def upload_bar(self, what: str, size: int) -> Callable[[int], None]:
        return lambda n_bytes: None

    def confirm_stop(self) -> bool:
        return self.stops

    @property
    def text(self) -> str:
        return "\n".join(self.messages)


Kind = TypeVar("Kind", ClusterPlan, ApplicationPlan)


def plan(**more: Any) -> ClusterPlan:
    """Return a plan for a cluster."""
    return plan_of(ClusterPlan, **more)


@cache
def plan_of(kind: type[Kind], **more: Any) -> Kind:
    """Return a plan with these settings; results are fetched to a folder below the working directory."""
    parser = argparse.ArgumentParser()
    settings_flags(parser)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in more.items() if value is not True]
    words += [f"--{name}" for name, value in more.items() if value is True]
    settings = load_settings(parser.parse_args(words), {})
    return kind.of(settings, REGION, ACCOUNT, OWNER, Path("data"), Path("packages"))


def deploy(
    script: Scripted | ScriptedServerless,
    folder: Path,
    reporter: RecordingReporter | None = None,
    cluster: str = "",
    **more: Any,
) -> int:
    """Deploy in a folder as a new process would, to a cluster or to an application; return the exit code."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    aws, clock, shown = script.aws(), script.clock, reporter or RecordingReporter()
    if isinstance(script, ScriptedServerless):
        run = plan_of(ApplicationPlan, target="serverless", **more)
        return Deployment(aws, clock, Applications(aws, clock, run.settings), run, shown, cluster).run()
    step = plan(**more)
    return Deployment(aws, clock, Clusters(aws, clock, step.settings), step, shown, cluster).run()


def fetched(folder: Path) -> list[str]:
    """Return the names of the run folders that were fetched, sorted."""
    return sorted(run.name for run in (folder / "runs").glob("*") if run.name[0] != ".")
