"""What to start and what to run: cluster.toml, overridden by a file, by the environment, and by flags."""

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
from emr.machines import Machine, spark_sizes
from emr.releases import check_python

DEFAULTS = Path(__file__).with_name("cluster.toml")
JOBS = ("outer", "inner", "gram", "ridge", "ingest", "predict")
TABLES = ("tags", "spark")
SECTIONS = ("job", "place", "cluster", *TABLES)
PROJECT = "parallel-image-classification"
RESERVED = {"project", "deployment", "deployed-by", "machines", "for-use-with-amazon-emr-managed-policies"}
"""Tags by which clusters are found again."""

KINDS = {str: "text in quotes", int: "a whole number", bool: "true or false", dict: "a table"}


@dataclass(frozen=True)
class Settings:
    """One deployment, as cluster.toml describes its parts."""

    job: str
    arguments: str
    timeout_minutes: int
    region: str
    bucket: str
    prefix: str
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
    tags: dict[str, str]
    spark: dict[str, str]

    def check(self) -> None:
        """Check what can be checked without asking AWS.

        Raises:
            InputError: says which value, and what it could be.
        """
        if self.job not in JOBS:
            raise InputError(f"job {self.job!r}: use one of {', '.join(JOBS)}")
        for name, least, most in (
            ("timeout_minutes", 1, 7 * 24 * 60),
            ("core_count", 1, 1000),
            ("task_count", 0, 1000),
            ("idle_minutes", 1, 7 * 24 * 60),  # AutoTerminationPolicy takes 60 to 604,800 seconds
        ):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name)}: use {least} to {most}")
        check_python(self.release, self.python)
        if len({machine.architecture for machine in self.machines}) > 1:
            raise InputError(
                f"primary_type {self.primary_type}, core_type {self.core_type}, task_type {self.task_type}: some "
                "are arm64 and some are not; give all of them"
            )
        if self.subnet and not re.fullmatch(r"subnet-[0-9a-f]+", self.subnet):
            raise InputError(f"subnet {self.subnet!r}: give an id such as subnet-0123abcd")
        for name in ("service_role", "instance_profile"):
            if not getattr(self, name):
                raise InputError(f"{name}: give one; `aws emr create-default-roles` makes the default ones")
        own = sorted(RESERVED & set(self.tags))
        if own:
            raise InputError(f"tags {own[0]}: that one is this project's; name yours otherwise")
        if self.bucket and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.bucket):
            raise InputError(f"bucket {self.bucket!r}: not a name that a bucket can have; leave out s3://")
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", self.prefix, re.ASCII):
            raise InputError(f"prefix {self.prefix!r}: use names of letters, digits, _ . -, with / between them")
        self.words  # noqa: B018  # raises where quotes are not closed

    @property
    def machines(self) -> tuple[Machine, ...]:
        """The instance types in use."""
        types = [self.primary_type, self.core_type, *([self.task_type] if self.task_count else [])]
        return tuple(Machine.of(name) for name in types)

    @property
    def architecture(self) -> str:
        """Of all nodes."""
        return self.machines[0].architecture

    def bucket_in(self, account: str, region: str) -> str:
        """The bucket's name, which is the project's own if the user gives none."""
        return self.bucket or f"{PROJECT}-{account}-{region}"

    @property
    def logs(self) -> str:
        """The key below which clusters put their logs."""
        return f"{self.prefix}/logs/"

    @property
    def runs(self) -> str:
        """The key below which jobs put their run folders."""
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
        """Sizes that fill the nodes, and over them what cluster.toml says."""
        smallest = min(self.machines[1:], key=lambda machine: machine.memory)
        return spark_sizes(smallest, self.core_count + self.task_count) | self.spark

    def of_cluster(self) -> dict[str, Any]:
        """What makes one cluster another one; a deployment goes on with a cluster that has all of it in common."""
        names = (
            "region", "bucket", "prefix", "subnet", "release", "primary_type", "core_type", "core_count",
            "task_type", "task_count", "task_spot", "keep", "service_role", "instance_profile", "tags",
        )  # fmt: skip
        return {name: value for name, value in asdict(self).items() if name in names}


def settings_flags(parser: argparse.ArgumentParser, sections: Container[str] = SECTIONS) -> None:
    """Add a flag for each value of cluster.toml.

    Args:
        parser: to add them to.
        sections: of which sections.
    """
    parser.add_argument(
        "--config", metavar="FILE", help="values that take the place of emr/cluster.toml's; else $EMR_CONFIG"
    )
    group = parser.add_argument_group("settings", "each also in the environment: --core-count 8, EMR_CORE_COUNT=8")
    told = dict(re.findall(r"(?m)^(\w+) = .*?# *(.*)", DEFAULTS.read_text(encoding="utf-8")))
    for section, values in _read(DEFAULTS).items():
        if section not in sections:
            continue
        if section in TABLES:
            what = "one more, or another value; may be given again"
            group.add_argument(f"--{section}", metavar="NAME=VALUE", action="append", help=what)
            continue
        for name, value in values.items():
            flag, default = f"--{name.replace('_', '-')}", str(value).lower() if isinstance(value, bool) else value
            what = told.get(name, "") + (f" (default: {default})" if value != "" else "")
            if isinstance(value, bool):
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=what)
            else:
                group.add_argument(flag, metavar="N" if isinstance(value, int) else "TEXT", help=what)


def load_settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Put the sources together; Settings.check tells whether they make sense.

    Raises:
        InputError: a value is of the wrong kind, or there is none of that name.
    """
    values = _flat(_read(DEFAULTS))
    file = arguments.config or environment.get("EMR_CONFIG")
    if file:
        for name, own in _flat(_checked(file, _read(Path(file)))).items():
            values[name] = {**values[name], **own} if name in TABLES else own
    for name in values:
        given, variable = getattr(arguments, name, None), f"EMR_{name.upper()}"
        if name in TABLES:
            for pair in [*environment.get(variable, "").split(), *(given or [])]:
                values[name] = {**values[name], **_pair(name, pair)}
        elif given is not None:
            values[name] = _as(f"--{name.replace('_', '-')}", given, values[name])
        elif variable in environment:
            values[name] = _as(variable, environment[variable], values[name])
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or ""
    values["region"] = values["region"] or region
    return Settings(**values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; --config names a file as emr/cluster.toml is") from error
    except ValueError as error:
        raise InputError(f"{path}: not TOML ({error})") from error


def _checked(file: str, sections: dict[str, Any]) -> dict[str, Any]:
    """A file of the user's, if its sections, names and kinds are those of cluster.toml.

    Raises:
        InputError: says which is not.
    """
    known = _read(DEFAULTS)
    for section, own in sections.items():
        if section not in known or not isinstance(own, dict):
            raise InputError(f"{file}: no section is called [{section}]; there are {', '.join(known)}")
        for name, value in own.items():
            if section in TABLES:
                continue
            if name not in known[section]:
                raise InputError(f"{file}: no setting of [{section}] is called {name!r}; see emr/cluster.toml")
            wanted = type(known[section][name])
            if type(value) is not wanted:
                raise InputError(f"{file}: {name} is {value!r}; give {KINDS[wanted]}")
    return sections


def _flat(sections: dict[str, Any]) -> dict[str, Any]:
    """Settings without their sections, but for the two that are tables of the user's."""
    flat: dict[str, Any] = {}
    for name, section in sections.items():
        if name in TABLES:
            flat[name] = {key: str(value) for key, value in section.items()}
        else:
            flat |= section
    return flat


def _pair(name: str, text: str) -> dict[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"{name} {text!r}: give NAME=VALUE")
    return {key: value}


def _as(name: str, given: Any, like: Any) -> Any:
    """A value from the environment or a flag, of the kind that cluster.toml has there."""
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
