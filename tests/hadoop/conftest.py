"""Servers that all tests of this folder share, and that end with them: moto has one state in each process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emr.ec2.machines import Machine
from tests.support.emr.cloud import bare_python, cloud, on_yarn
from tests.support.emr.deploying import plan
from tests.support.hadoop.daemons import hadoop
from tests.support.hadoop.servers import Servers
from tests.support.jobs import environment
from tests.support.s3 import S3Server, s3_server

NODE = Machine.of("m7i.xlarge")
"""The default instance type, whose memory and cores each node of YARN has here."""


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture(scope="package")
def servers(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("hadoop")
    programs = bare_python(folder / "bare")
    with cloud(s3) as aws:
        aws.default_roles()
        nodes = environment(**s3.environment, PATH=f"{programs}:{environment()['PATH']}")
        site = plan().yarn_site()
        with hadoop(folder / "hadoop", NODE.yarn_mib, NODE.cores, nodes, s3.hadoop, site) as yarn:
            (folder / "containers").mkdir()
            with aws.running(on_yarn(aws, yarn, s3), folder / "containers"):
                yield Servers(aws, yarn, s3)
        assert not aws.failures
