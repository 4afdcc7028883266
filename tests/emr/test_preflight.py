"""Errors that are found before anything is started that costs money."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.errors import InputError
from emr.aws import Aws
from emr.ec2.plan import SECURITY_CONFIGURATION
from tests.support.emr.clients import Refused
from tests.support.emr.cloud import ACCOUNT, REGION
from tests.support.emr.deploying import RecordingReporter, deploy
from tests.support.emr.scripted import Scripted

pytestmark = pytest.mark.usefixtures("_small_packages")


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (
            "HeadBucket",
            ("403", "Forbidden"),
            "it is another account's, or you have no access; name one of yours",
        ),
        (
            "DescribeReleaseLabel",
            ("ValidationException", "No such release"),
            "release emr-spark-8.0.0 in eu-west-1",
        ),
        (
            "GetRole",
            ("NoSuchEntity", "Role not found"),
            "service_role EMR_DefaultRole: does not exist; `aws",
        ),
        (
            "GetInstanceProfile",
            ("NoSuchEntity", "not found"),
            "instance_profile EMR_EC2_DefaultRole: does not exist",
        ),
        ("CreateSecurityConfiguration", ("AccessDeniedException", "no"), "emr/policy.json has the permissions"),
        (
            "GetCallerIdentity",
            ("InvalidClientTokenId", "The security token is invalid"),
            "credentials: InvalidClient",
        ),
        ("ListClusters", ("AccessDeniedException", "no"), "emr/policy.json has the permissions"),
    ],
)
def test_a_refused_check_ends_before_there_is_a_cluster(
    tmp_path: Path, operation: str, error: tuple[str, str], message: str
) -> None:
    script = Scripted()
    script.refused[operation] = error
    with pytest.raises(InputError, match=re.escape(message)):
        deploy(script, tmp_path)
    assert not script.clusters


def test_a_bucket_in_another_region_is_refused(tmp_path: Path) -> None:
    script = Scripted()
    script.bucket_region = "us-west-2"
    with pytest.raises(InputError, match="it is in us-west-2 and the cluster would be in eu-west-1"):
        deploy(script, tmp_path)
    assert not script.clusters


def test_a_bucket_that_answers_from_elsewhere_is_refused(tmp_path: Path) -> None:
    script = Scripted()

    def moved(_: object) -> dict[str, object]:
        refused = Refused("301", "Moved Permanently", 301)
        refused.parsed["ResponseMetadata"]["HTTPHeaders"] = {"x-amz-bucket-region": "us-west-2"}  # type: ignore[index]
        raise refused

    script.head_bucket = moved  # type: ignore[assignment,method-assign]
    with pytest.raises(InputError, match="it is in us-west-2"):
        deploy(script, tmp_path)


@pytest.mark.parametrize(
    ("spark", "message"),
    [
        (
            "spark.executor.memory=12g",
            r"memory 12g and .* 4608m are 16,896 MiB, and m7i\.xlarge has 16,384",
        ),
        (
            "spark.driver.memoryOverhead=1t",
            r"memory 1024m and .* 1t are 1,049,600 MiB, and m7i",
        ),
        ("spark.driver.memory=much", r"spark\.driver\.memory 'much': give a size such as 900m or 4g"),
    ],
)
def test_memory_that_no_machine_has_starts_nothing(tmp_path: Path, spark: str, message: str) -> None:
    script = Scripted()
    with pytest.raises(InputError, match=message):
        deploy(script, tmp_path, spark=spark)
    assert script.bucket_region is None


def test_roles_that_the_user_may_not_see_do_not_stop_a_deployment(tmp_path: Path) -> None:
    script, reporter = Scripted(), RecordingReporter()
    script.refused["GetRole"] = ("AccessDenied", "no")
    assert deploy(script, tmp_path, reporter) == 0
    assert "service_role EMR_DefaultRole: you may not see whether it exists" in reporter.messages


def test_arguments_longer_than_the_api_takes_are_refused(tmp_path: Path) -> None:
    script = Scripted()
    lambdas = ",".join(map(str, range(3000)))
    with pytest.raises(InputError, match=r"the step's arguments have 1\d,\d\d\d characters, .* takes 10,240"):
        deploy(script, tmp_path, arguments=f"--lambdas={lambdas}")
    assert script.calls == ["GetCallerIdentity"]


def test_a_new_bucket_is_closed_before_anything_is_in_it(tmp_path: Path) -> None:
    script = Scripted()
    deploy(script, tmp_path)
    order = [script.calls.index(name) for name in ("CreateBucket", "PutPublicAccessBlock", "PutObject")]
    assert order == sorted(order)


def test_a_region_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="region 'eu-west-9': Amazon EMR has no region of that name"):
        Aws("eu-west-9")


def test_a_role_that_each_process_assumes_anew_is_one_owner() -> None:
    """A profile with role_arn and without role_session_name gets a session name that contains the time."""
    script, names = Scripted(), set()
    for moment in (1700000000, 1700000123):
        script.arn = f"arn:aws:sts::{ACCOUNT}:assumed-role/deployer/botocore-session-{moment}"
        names.add(script.aws().identity.arn)
    assert names == {f"arn:aws:sts::{ACCOUNT}:assumed-role/deployer"}


def test_a_security_configuration_of_that_name_must_require_imdsv2(tmp_path: Path) -> None:
    script = Scripted()
    script.security_configurations[SECURITY_CONFIGURATION] = "{}"
    with pytest.raises(InputError, match="it does not require IMDSv2, as this project's does; remove it"):
        deploy(script, tmp_path)


def test_a_bucket_that_a_kill_left_open_is_closed_by_the_next_attempt(tmp_path: Path) -> None:
    script = Scripted()
    script.bucket_region = REGION
    assert deploy(script, tmp_path) == 0
    assert script.calls.index("PutPublicAccessBlock") < script.calls.index("PutObject")
    assert "PutBucketTagging" not in script.calls  # the tags of an existing bucket are its owner's


def test_a_user_s_own_bucket_is_left_as_it_is(tmp_path: Path) -> None:
    script = Scripted()
    script.bucket_region = REGION
    assert deploy(script, tmp_path, bucket="mine") == 0
    assert not [name for name in script.calls if name.startswith(("PutBucket", "PutPublic"))]
