"""Settings from cluster.toml, files, the environment and flags."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from common.errors import InputError
from emr.ec2.machines import Machine, spark_sizes
from emr.releases import check_python
from emr.settings import RANGES, Settings, load_settings, settings_flags


def load(*words: str, **environment: str) -> Settings:
    parser = argparse.ArgumentParser()
    settings_flags(parser)
    settings = load_settings(parser.parse_args(words), environment)
    settings.check()
    return settings


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    assert load().core_count == 2
    file = tmp_path / "mine.toml"
    file.write_text('[cluster]\ncore_count = 3\ntask_count = 4\nkeep = true\n[tags]\nteam = "plants"\n')
    settings = load("--config", str(file), "--core-count", "5", EMR_CORE_COUNT="6", EMR_TASK_COUNT="7")
    assert (settings.core_count, settings.task_count, settings.keep) == (5, 7, True)
    assert settings.tags == {"team": "plants"}
    assert load(EMR_CONFIG=str(file), EMR_KEEP="false").keep is False
    assert load("--no-keep", EMR_CONFIG=str(file)).keep is False
    settings = load("--spark", "spark.a=1", EMR_SPARK="spark.b=2 spark.task.maxFailures=3")
    assert settings.spark_conf.items() >= {"spark.a": "1", "spark.b": "2", "spark.task.maxFailures": "3"}.items()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--job", "serial"], "job 'serial': use one of outer"),
        (["--core-count", "0"], "core_count 0: use 1 to 1000"),
        (["--core-count", "many"], "--core-count 'many': not a whole number"),
        (["--idle-minutes", "0"], "idle_minutes 0: use 1 to"),
        (["--release", "emr-6.15.0"], "release 'emr-6.15.0': use emr-spark-8.0.0"),
        (["--release", "emr-7.0.0"], "release emr-7.0.0: its Python is 3.9, and 3.11 is needed"),
        (["--python", "3.10"], "release emr-spark-8.0.0 has Python 3.11, 3.12, 3.13: python 3.10 cannot be used"),
        (["--release", "emr-7.13.0", "--python", "3.12"], "release emr-7.13.0 has Python 3.9, 3.11"),
        (["--core-type", "m7g.xlarge"], "some are arm64 and some are not; give all of them"),
        (["--core-type", "p5.48xlarge"], "instance type 'p5.48xlarge': use one of the families"),
        (["--core-type", "c4.xlarge"], "instance type 'c4.xlarge': use generation 5 or later"),
        (["--core-type", "m7i.999xlarge"], "instance type 'm7i.999xlarge'"),
        (["--subnet", "foo"], "subnet 'foo': give an id such as subnet-0123abcd"),
        (["--service-role", ""], "service_role: give one"),
        (["--target", "eks"], "target 'eks': use one of ec2, serverless"),
        (["--target", "serverless", "--worker-vcpus", "3"], "worker_vcpus 3: use one of 1, 2, 4, 8, 16"),
        (["--target", "serverless", "--worker-gb", "31"], "worker_gb 31: with 4 vCPUs, use 8 to 30"),
        (
            ["--target", "serverless", "--worker-vcpus", "8", "--worker-gb", "18"],
            "worker_gb 18: with 8 vCPUs, use 16 to 60, in steps of 4",
        ),
        (["--target", "serverless", "--executors", "0"], "executors 0: use 1 to 1000"),
        (["--target", "serverless", "--ready-executors", "3"], "ready_executors 3: more than executors, 2"),
        (
            ["--target", "serverless", "--architecture", "aarch64"],
            "architecture 'aarch64': use one of x86_64, arm64",
        ),
        (["--target", "serverless", "--execution-role", ""], "execution_role '': give the name or the ARN"),
        (["--target", "serverless", "--subnet", "foo"], "subnet 'foo': give an id such as"),
        (["--tags", "project=mine"], "tags project: reserved for this project"),
        (["--bucket", "s3://mine"], "not a valid name of a bucket; leave out s3://"),
        (["--prefix", "/a"], "prefix '/a'"),
        (["--arguments", "--data 'x"], "No closing quotation"),
        (["--tags", "team"], "tags 'team': give NAME=VALUE"),
        (["--config", "none.toml"], "none.toml: No such file or directory"),
    ],
)
def test_an_impossible_setting_is_refused_with_a_remedy(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cluster]\ncores = 3", r"no setting of \[cluster\] is called 'cores'"),
        ("[job]\ncore_count = 3", r"no setting of \[job\] is called 'core_count'"),
        ('[cluster]\ncore_count = "3"', "core_count is '3'; give a whole number"),
        ("[cluster]\nrelease = 8", "release is 8; give text in quotes"),
        ("[sprak]\na = 1", r"no section is called \[sprak\]; there are job, place, cluster"),
        ("spark = 3", r"no section is called \[spark\]"),
        ("cluster", "not TOML"),
    ],
)
def test_a_file_of_the_users_own_is_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load("--config", str(tmp_path / "mine.toml"))


def test_a_value_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(InputError, match="EMR_KEEP 'perhaps': use true or false"):
        load(EMR_KEEP="perhaps")


@pytest.mark.parametrize(
    ("name", "cores", "memory", "architecture"),
    [
        ("m7i.xlarge", 4, 16, "x86_64"),
        ("m7g.2xlarge", 8, 32, "aarch64"),
        ("c7gn.large", 2, 4, "aarch64"),
        ("r6id.16xlarge", 64, 512, "x86_64"),
        ("m7i-flex.xlarge", 4, 16, "x86_64"),
    ],
)
def test_cores_and_memory_are_read_from_the_name(name: str, cores: int, memory: int, architecture: str) -> None:
    assert Machine.of(name) == Machine(name, cores, memory, architecture)


def test_settings_of_the_other_target_do_not_matter() -> None:
    assert load("--target", "serverless", "--core-type", "none", "--service-role", "").target == "serverless"
    assert load("--worker-gb", "3", "--execution-role", "", "--executors", "0").target == "ec2"
    assert load("--target", "serverless", "--core-count", "0").target == "serverless"
    assert load(EMR_TARGET="serverless", EMR_ARCHITECTURE="arm64").processor == "aarch64"


@pytest.mark.parametrize("words", [(), ("--target", "serverless")])
def test_every_number_has_a_range(words: tuple[str, ...]) -> None:
    """A number without one could not be refused."""
    numbers = {name for name, value in asdict(load(*words)).items() if type(value) is int}
    assert numbers - set(RANGES) == {"worker_vcpus", "worker_gb"}  # whose sizes Worker.of checks


def megabytes(text: str) -> int:
    return int(text.removesuffix("m"))


@pytest.mark.parametrize("name", ["c7i.large", "m7i.xlarge", "m7g.4xlarge", "r7i.16xlarge"])
def test_a_driver_and_an_executor_fit_into_yarns_share_of_a_node(name: str) -> None:
    machine = Machine.of(name)
    sizes = spark_sizes(machine, 3)
    driver, executor = (
        megabytes(sizes[f"spark.{who}.memory"]) + megabytes(sizes[f"spark.{who}.memoryOverhead"])
        for who in ("driver", "executor")
    )
    assert 0.7 * machine.memory * 1024 <= driver + executor <= 0.75 * machine.memory * 1024
    assert executor > driver
    assert sizes["spark.executor.cores"] == str(machine.cores)


def test_every_release_that_is_offered_has_the_default_python() -> None:
    for release in ("emr-spark-8.0.0", "emr-7.1.0", "emr-7.13.0"):
        check_python(release, "3.11")
