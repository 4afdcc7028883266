"""Checks of what a cluster needs, before it is started."""

from __future__ import annotations

import json

from botocore.exceptions import ClientError

from common.errors import InputError
from emr.aws import Aws, code_of, explained
from emr.ec2.plan import IMDS, IMDSV2, SECURITY_CONFIGURATION, ClusterPlan
from emr.roles import check_exists

DEFAULT_ROLES = "`aws emr create-default-roles` makes the default ones"


def preflight(aws: Aws, plan: ClusterPlan) -> list[str]:
    """Check release and roles; create the security configuration, which costs nothing.

    Returns:
        notes for the user.

    Raises:
        InputError: a check fails; the message says how to mend it.
        RunError: AWS cannot be reached.
    """
    notes = [_check_release(aws, plan.settings.release)]
    # the API takes ARNs too, whose last part is the name
    role, profile = (
        name.rpartition("/")[2] for name in (plan.settings.service_role, plan.settings.instance_profile)
    )
    notes += check_exists("service_role", role, lambda: aws.iam.get_role(RoleName=role), DEFAULT_ROLES)
    notes += check_exists(
        "instance_profile",
        profile,
        lambda: aws.iam.get_instance_profile(InstanceProfileName=profile),
        DEFAULT_ROLES,
    )
    _ensure_security_configuration(aws)
    return notes


def _check_release(aws: Aws, release: str) -> str:
    """Check that a release exists and has Spark; return a note with Spark's version.

    Raises:
        InputError: it does not exist, or has no Spark.
    """
    with explained(f"release {release} in {aws.region}"):
        answer = aws.emr.describe_release_label(ReleaseLabel=release)
    spark = next(
        (app.get("Version") for app in answer.get("Applications", []) if app.get("Name") == "Spark"), None
    )
    if spark is None:
        raise InputError(f"release {release}: has no Spark; use another")
    return f"{release} has Spark {spark}"


def _ensure_security_configuration(aws: Aws) -> None:
    """Create the account's security configuration that requires IMDSv2, unless it exists.

    Raises:
        InputError: a configuration of that name does not require IMDSv2.
    """
    with explained(f"security configuration {SECURITY_CONFIGURATION}"):
        try:
            answer = aws.emr.describe_security_configuration(Name=SECURITY_CONFIGURATION)
        except ClientError as error:
            if code_of(error) != "InvalidRequestException":
                raise
        else:
            if json.loads(answer["SecurityConfiguration"]).get(IMDS) != IMDSV2[IMDS]:
                raise InputError(
                    f"security configuration {SECURITY_CONFIGURATION}: it does not require IMDSv2, as "
                    "this project's does; remove it"
                )
            return
        try:
            aws.emr.create_security_configuration(
                Name=SECURITY_CONFIGURATION, SecurityConfiguration=json.dumps(IMDSV2)
            )
        except ClientError as error:
            if "already exists" not in str(error):
                raise
