"""What can go wrong is looked for before anything is started."""

from __future__ import annotations

import json
from collections.abc import Callable

from botocore.exceptions import ClientError

from common.errors import InputError
from emr.aws import DENIED, Aws, code_of, explained
from emr.bucket import Bucket
from emr.plan import IMDS, IMDSV2, SECURITY_CONFIGURATION, Plan

DEFAULT_ROLES = "`aws emr create-default-roles` makes the default ones"


def preflight(aws: Aws, plan: Plan, starts_cluster: bool) -> list[str]:
    """Check credentials, bucket, release and roles, and make what is free of charge.

    Args:
        aws: the services.
        plan: what is to be deployed.
        starts_cluster: whether a cluster may be started, and not only a step.

    Returns:
        what a person should know.

    Raises:
        InputError: the first thing that would fail, and how to mend it.
    """
    plan.step("0" * 64)  # its arguments may be too long
    notes = []
    if Bucket(aws, plan.bucket).ensure(ours=not plan.settings.bucket):
        notes.append(f"bucket {plan.bucket} was made: private, encrypted")
    if not starts_cluster:
        return notes
    notes.append(_release(aws, plan.settings.release))
    # the API takes ARNs too, whose last part is the name
    role, profile = (
        name.rpartition("/")[2] for name in (plan.settings.service_role, plan.settings.instance_profile)
    )
    notes += _there("service_role", role, lambda: aws.iam.get_role(RoleName=role))
    notes += _there("instance_profile", profile, lambda: aws.iam.get_instance_profile(InstanceProfileName=profile))
    _security_configuration(aws)
    return notes


def _there(what: str, name: str, ask: Callable[[], object]) -> list[str]:
    with explained(f"{what} {name}"):
        try:
            ask()
        except ClientError as error:
            if code_of(error) in DENIED:
                return [f"{what} {name}: you may not look whether it is there"]
            if code_of(error) == "NoSuchEntity":
                raise InputError(f"{what} {name}: there is none of that name; {DEFAULT_ROLES}") from error
            raise
    return []


def _release(aws: Aws, release: str) -> str:
    with explained(f"release {release} in {aws.region}"):
        said = aws.emr.describe_release_label(ReleaseLabel=release)
    spark = next((app.get("Version") for app in said.get("Applications", []) if app.get("Name") == "Spark"), None)
    if spark is None:
        raise InputError(f"release {release}: has no Spark; use another")
    return f"{release} has Spark {spark}"


def _security_configuration(aws: Aws) -> None:
    """The account's one that has IMDSv2 required; made if it is not there."""
    with explained(f"security configuration {SECURITY_CONFIGURATION}"):
        try:
            said = aws.emr.describe_security_configuration(Name=SECURITY_CONFIGURATION)["SecurityConfiguration"]
        except ClientError as error:
            if code_of(error) != "InvalidRequestException":
                raise
        else:
            if json.loads(said).get(IMDS) != IMDSV2[IMDS]:
                raise InputError(
                    f"security configuration {SECURITY_CONFIGURATION}: it is not what this project makes, which "
                    "requires IMDSv2; remove it"
                )
            return
        try:
            aws.emr.create_security_configuration(
                Name=SECURITY_CONFIGURATION, SecurityConfiguration=json.dumps(IMDSV2)
            )
        except ClientError as error:
            if "already exists" not in str(error):
                raise
