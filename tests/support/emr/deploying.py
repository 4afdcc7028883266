"""Deployments as processes of their own would make them, on scripted services."""

from __future__ import annotations

import argparse
import os
from functools import cache
from pathlib import Path
from typing import Any

from emr.deploy import Deployment
from emr.plan import Plan
from emr.settings import load_settings, settings_flags
from tests.support.emr.cloud import ACCOUNT, REGION
from tests.support.emr.scripted import OWNER, Person, Scripted

TRACEBACK = """\
gram.py: a task failed on a worker
Traceback (most recent call last):
  File "worker.py", line 1, in <module>
    1 / 0
ZeroDivisionError: division by zero
"""


@cache
def plan(**more: Any) -> Plan:
    """A plan whose results come below where one is."""
    parser = argparse.ArgumentParser()
    settings_flags(parser)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in more.items() if value is not True]
    words += [f"--{name}" for name, value in more.items() if value is True]
    settings = load_settings(parser.parse_args(words), {})
    return Plan.of(settings, REGION, ACCOUNT, OWNER, Path("data"), Path("packages"))


def deploy(script: Scripted, folder: Path, person: Person | None = None, cluster: str = "", **more: Any) -> int:
    """As a process of its own would, in a folder."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    return Deployment(script.aws(), script.clock, plan(**more), person or Person(), cluster).run()


def fetched(folder: Path) -> list[str]:
    return sorted(own.name for own in (folder / "runs").glob("*") if own.name[0] != ".")
