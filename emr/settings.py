"""Settings of a deployment: cluster.toml, overridden by a file, by the environment, and by flags."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from emr.ec2.machines import Machine, spark_sizes
from emr.releases import check_python
from emr.serverless.workers import ARCHITECTURES, Worker

DEFAULTS = Path(__file__).with_name("cluster.toml")
JOBS = ("outer", "inner", "gram", "ridge", "ingest", "predict")
TABLES = ("tags", "spark")
"""Sections whose names are the user's."""

SECTIONS = ("job", "place", "cluster", "serverless", *TABLES)
SERVERLESS = "serverless"
TARGETS = ("ec2", SERVERLESS)
"""Names of the targets: clusters of machines, and applications of EMR Serverless."""

PROJECT = "parallel-image-classification"
RESERVED = {"project", "deployment", "deployed-by", "machines", "for-use-with-amazon-emr-managed-policies"}
"""Tags by which clusters are found again, and which users cannot set."""

KINDS = {str: "text in quotes", int: "a whole number", bool: "true or false", dict: "a table"}
"""Types in TOML, for messages."""

CLUSTER_SETTINGS = (
    "region",
    "bucket",
    "prefix",
    "subnet",
    "release",
    "primary_type",
    "core_type",
    "core_count",
    "task_type",
    "task_count",
    "task_spot",
    "keep",
    "service_role",
    "instance_profile",
    "tags",
)
"""Settings that a cluster must share with a deployment that goes on with it."""

APPLICATION_SETTINGS = (
    "region",
    "bucket",
    "prefix",
    "subnet",
    "release",
    "execution_role",
    "architecture",
    "worker_vcpus",
    "worker_gb",
    "executors",
    "ready_executors",
    "keep",
    "idle_minutes",
    "tags",
)
"""Settings that an application must share with a deployment that goes on with it."""

RANGES = {
    "timeout_minutes": (1, 7 * 24 * 60),
    "core_count": (1, 1000),
    "task_count": (0, 1000),
    "idle_minutes": (1, 7 * 24 * 60),  # AutoTerminationPolicy takes 60 to 604,800 seconds, and so does auto-stop
    "executors": (1, 1000),
    "ready_executors": (0, 1000),
}
"""The smallest and the largest value of each number."""

OF_ONE_TARGET = {"core_count": "ec2", "task_count": "ec2", "executors": SERVERLESS, "ready_executors": SERVERLESS}
"""Numbers that matter to one target alone."""


@dataclass(frozen=True)
class Settings:
    """Settings of one deployment; cluster.toml describes each."""

    job: str
    arguments: str
    timeout_minutes: int
    region: str
    bucket: str
    prefix: str
    target: str
    subnet: str
    fetch_to: str
    release: str
    python: str
    primary_type: str
    core_type: str
    core_count: int
    task_type: str
    task_count: int
    task_spot: bool
    idle_minutes: int
    keep: bool
    service_role: str
    instance_profile: str
    execution_role: str
    worker_vcpus: int
    worker_gb: int
    executors: int
    ready_executors: int
    architecture: str
    tags: dict[str, str]
    spark: dict[str, str]

    def check(self) -> None:
        """Check everything that can be checked without asking AWS.

        Raises:
            InputError: a value is not possible; the message names possible ones.
        """
        if self.job not in JOBS:
            raise InputError(f"job {self.job!r}: use one of {', '.join(JOBS)}")
        for name, (least, most) in RANGES.items():
            if OF_ONE_TARGET.get(name, self.target) == self.target and not least <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)}: use {least} to {most}")
        check_python(self.release, self.python)
        if self.subnet and not re.fullmatch(r"subnet-[0-9a-f]+", self.subnet):
            raise InputError(f"subnet {self.subnet!r}: give an id such as subnet-0123abcd")
        if self.target == SERVERLESS:
            self._check_serverless()
        else:
            self._check_cluster()
        reserved = sorted(RESERVED & set(self.tags))
        if reserved:
            raise InputError(f"tags {reserved[0]}: reserved for this project; choose another name")
        if self.bucket and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket):
            raise InputError(f"bucket {self.bucket!r}: not a valid name of a bucket; leave out s3://")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", self.prefix, re.ASCII):
            raise InputError(f"prefix {self.prefix!r}: use names of letters, digits, _ . -, with / between them")
        self.words  # noqa: B018  # raises if a quote is not closed

    def _check_cluster(self) -> None:
        if len({machine.architecture for machine in self.machines}) > 1:
            raise InputError(
                f"primary_type {self.primary_type}, core_type {self.core_type}, task_type {self.task_type}: some "
                "are arm64 and some are not; give all of them"
            )
        for name in ("service_role", "instance_profile"):
            if not getattr(self, name):
                raise InputError(f"{name}: give one; `aws emr create-default-roles` makes the default ones")

    def _check_serverless(self) -> None:
        self.worker  # noqa: B018  # raises if there is no worker of this size
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"architecture {self.architecture!r}: use one of {', '.join(ARCHITECTURES)}")
        if self.ready_executors > self.executors:
            raise InputError(
                f"ready_executors {self.ready_executors}: more than executors, {self.executors}; use at most that"
            )
        if not re.fullmatch(r"(arn:[\w-]+:iam::\d{12}:role/)?[\w+=,.@/-]+", self.execution_role, re.ASCII):
            raise InputError(f"execution_role {self.execution_role!r}: give the name or the ARN of a role")

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The instance types of a cluster: primary, core and, if there are any, task nodes."""
        types = [self.primary_type, self.core_type, *([self.task_type] if self.task_count else [])]
        return tuple(Machine.of(name) for name in types)

    @property
    def worker(self) -> Worker:
        """The size of an application's driver and executors.

        Raises:
            InputError: there is no such size.
        """
        return Worker.of(self.worker_vcpus, self.worker_gb)

    @property
    def processor(self) -> str:
        """The processor of all machines, as Python's packages call it: x86_64 or aarch64."""
        if self.target == SERVERLESS:
            return ARCHITECTURES[self.architecture]
        return self.machines[0].architecture

    @property
    def shape(self) -> str:
        """Counts and kinds of the machines that Spark's settings are made for."""
        if self.target == SERVERLESS:
            return f"{self.executors} {self.architecture} {self.worker}"
        return f"{self.core_count} {self.core_type} {self.task_count} {self.task_type}"

    def bucket_in(self, account: str, region: str) -> str:
        """Return the bucket's name; by default, the project's own in this account and region."""
        return self.bucket or f"{PROJECT}-{account}-{region}"

    @property
    def logs(self) -> str:
        """Prefix below which clusters write their logs."""
        return f"{self.prefix}/logs/"

    @property
    def runs(self) -> str:
        """Prefix below which jobs write their run folders."""
        return f"{self.prefix}/runs/"

    @property
    def words(self) -> list[str]:
        """The job's flags.

        Raises:
            InputError: a quote is not closed.
        """
        try:
            return shlex.split(self.arguments)
        except ValueError as error:
            raise InputError(f"arguments {self.arguments!r}: {error}") from error

    @property
    def spark_conf(self) -> dict[str, str]:
        """Spark's configuration: sizes that fill the machines, overridden by the section [spark]."""
        if self.target == SERVERLESS:
            return self.worker.spark_sizes(self.executors) | self.spark
        smallest = min(self.machines[1:], key=lambda machine: machine.memory)
        return spark_sizes(smallest, self.core_count + self.task_count) | self.spark

    def host_settings(self) -> dict[str, Any]:
        """Return the settings that tell clusters, or applications, apart, by name."""
        names = APPLICATION_SETTINGS if self.target == SERVERLESS else CLUSTER_SETTINGS
        return {name: value for name, value in asdict(self).items() if name in names}


def settings_flags(parser: argparse.ArgumentParser, sections: Container[str] = SECTIONS) -> None:
    """Add a flag for each value of cluster.toml.

    Args:
        parser: the parser to extend.
        sections: the sections of cluster.toml to include.
    """
    parser.add_argument(
        "--config", metavar="FILE", help="file whose values override those of emr/cluster.toml; else $EMR_CONFIG"
    )
    group = parser.add_argument_group(
        "settings", "each can also come from the environment: --core-count 8 or EMR_CORE_COUNT=8"
    )
    comments = dict(re.findall(r"(?m)^(\w+) = .*?# *(.*)", DEFAULTS.read_text(encoding="utf-8")))
    for section, values in _read(DEFAULTS).items():
        if section not in sections:
            continue
        if section in TABLES:
            text = "add or override one value; may be given more than once"
            group.add_argument(f"--{section}", metavar="NAME=VALUE", action="append", help=text)
            continue
        for name, value in values.items():
            flag, default = f"--{name.replace('_', '-')}", str(value).lower() if isinstance(value, bool) else value
            text = comments.get(name, "") + (f" (default: {default})" if value != "" else "")
            if isinstance(value, bool):
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
            else:
                group.add_argument(flag, metavar="N" if isinstance(value, int) else "TEXT", help=text)


def load_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Combine cluster.toml, the user's file, the environment and the flags; a later one overrides an earlier one.

    `Settings.check` tells whether the values make sense.

    Args:
        arguments: parsed flags of `settings_flags`.
        environment: the environment's variables.

    Raises:
        InputError: a value has the wrong type, or its name is not a setting.
    """
    values = _flat(_read(DEFAULTS))
    file = arguments.config or environment.get("EMR_CONFIG")
    if file:
        for name, value in _flat(_checked(file, _read(Path(file)))).items():
            values[name] = {**values[name], **value} if name in TABLES else value
    for name in values:
        given, variable = getattr(arguments, name, None), f"EMR_{name.upper()}"
        if name in TABLES:
            for pair in [*environment.get(variable, "").split(), *(given or [])]:
                values[name] = {**values[name], **_pair(name, pair)}
        elif given is not None:
            values[name] = _converted(f"--{name.replace('_', '-')}", given, values[name])
        elif variable in environment:
            values[name] = _converted(variable, environment[variable], values[name])
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""
    values["region"] = values["region"] or region
    if values["target"] not in TARGETS:  # verbs that look at nothing else need it
        raise InputError(f"target {values['target']!r}: use one of {', '.join(TARGETS)}")
    return Settings(**values)


def _read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; --config names a file like emr/cluster.toml") from error
    except ValueError as error:
        raise InputError(f"{path}: not TOML ({error})") from error


def _checked(file: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Return the sections of a user's file if cluster.toml has the same names and types.

    Raises:
        InputError: cluster.toml lacks a section or name, or has another type for it.
    """
    defaults = _read(DEFAULTS)
    for section, values in sections.items():
        if section not in defaults or not isinstance(values, dict):
            raise InputError(f"{file}: no section is called [{section}]; there are {', '.join(defaults)}")
        for name, value in values.items():
            if section in TABLES:
                continue
            if name not in defaults[section]:
                raise InputError(f"{file}: no setting of [{section}] is called {name!r}; see emr/cluster.toml")
            kind = type(defaults[section][name])
            if type(value) is not kind:
                raise InputError(f"{file}: {name} is {value!r}; give {KINDS[kind]}")
    return sections


def _flat(sections: dict[str, Any]) -> dict[str, Any]:
    """Return settings by name, without their sections. The sections in TABLES stay dictionaries."""
    flat: dict[str, Any] = {}
    for name, section in sections.items():
        if name in TABLES:
            flat[name] = {key: str(value) for key, value in section.items()}
        else:
            flat |= section
    return flat


def _pair(name: str, text: str) -> dict[str, str]:
    """Parse NAME=VALUE.

    Raises:
        InputError: there is no name, or no equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"{name} {text!r}: give NAME=VALUE")
    return {key: value}


def _converted(name: str, given: Any, like: Any) -> Any:
    """Return the value of a flag or an environment variable, converted to the type of its default.

    Args:
        name: the flag or variable, for messages.
        given: the value; a bool if it comes from a flag without a value.
        like: the default.

    Raises:
        InputError: it cannot be converted.
    """
    if isinstance(like, bool) and not isinstance(given, bool):
        truth = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}
        if given.lower() not in truth:
            raise InputError(f"{name} {given!r}: use true or false")
        return truth[given.lower()]
    if isinstance(like, int) and not isinstance(given, bool):
        try:
            return int(given)
        except ValueError as error:
            raise InputError(f"{name} {given!r}: not a whole number") from error
    return given
