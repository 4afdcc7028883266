"""The permissions that the docs/how-to/amazon-emr.md asks for are sufficient, and none is superfluous."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from moto.iam.policy_validation import IAMPolicyDocumentValidator

from emr.settings import PROJECT
from tests.support.emr.deploying import deploy
from tests.support.emr.scripted import RUNNING_S, Scripted
from tests.support.emr.scripted_serverless import STARTS_S, ScriptedServerless
from tests.support.places import ROOT

ACTIONS = {
    "GetCallerIdentity": "sts:GetCallerIdentity",
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "CreateBucket": "s3:CreateBucket",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "PutBucketTagging": "s3:PutBucketTagging",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "GetRole": "iam:GetRole",
    "GetInstanceProfile": "iam:GetInstanceProfile",
}
"""The permission for each call (service authorization reference). EMR's permissions are named like its calls."""

IMPLIED = {
    "elasticmapreduce:AddTags",  # RunJobFlow's tags
    "elasticmapreduce:PutAutoTerminationPolicy",  # its idle time
    "iam:PassRole",  # its roles
    "emr-serverless:TagResource",  # CreateApplication's tags
    "iam:CreateServiceLinkedRole",  # created together with an account's first cluster
    "s3:AbortMultipartUpload",  # ends a multipart upload that fails
}
"""Permissions that the guides of Amazon EMR and S3 ask for besides those of the calls themselves."""


def policy() -> dict[str, list[dict[str, object]]]:
    """Return the policy, if it is valid."""
    text = (ROOT / "emr" / "policy.json").read_text()
    IAMPolicyDocumentValidator(text).validate()
    read: dict[str, list[dict[str, object]]] = json.loads(text)
    return read


def allowed() -> set[str]:
    """Return all permissions that the policy grants."""
    actions: set[str] = set()
    for statement in policy()["Statement"]:
        permitted = statement["Action"] if statement["Effect"] == "Allow" else []
        actions |= set(permitted) if isinstance(permitted, list) else {str(permitted)}
    return actions


@pytest.mark.usefixtures("_small_packages")
def test_every_call_is_allowed_and_nothing_else_is(tmp_path: Path) -> None:
    called: set[str] = set()
    for interrupt_at in (None, RUNNING_S + 10.0):
        script = Scripted()
        script.clock.interrupt_at = interrupt_at
        deploy(script, tmp_path / str(interrupt_at))
        called |= set(script.calls)
    script = Scripted()
    deploy(script, tmp_path / "submitted", cluster=script.foreign_cluster())
    called |= set(script.calls)
    needed = {ACTIONS.get(name, f"elasticmapreduce:{name}") for name in called}
    called = set()
    for at in (None, STARTS_S + 10.0):
        serverless = ScriptedServerless()
        serverless.clock.interrupt_at = at
        deploy(serverless, tmp_path / f"serverless-{at}")
        called |= set(serverless.calls)
    needed |= {ACTIONS.get(name, f"emr-serverless:{name}") for name in called}
    assert allowed() == needed | IMPLIED
    assert not any("*" in action for action in allowed())


TAGGED = (
    *("RunJobFlow", "AddJobFlowSteps", "CancelSteps", "TerminateJobFlows"),
    *("CreateApplication", "StartJobRun", "CancelJobRun", "StopApplication", "DeleteApplication"),
)
"""Calls that change clusters or applications."""


def test_only_what_has_the_projects_tag_can_be_touched() -> None:
    denied = 0
    for statement in policy()["Statement"]:
        actions = str(statement["Action"])
        if any(verb in actions for verb in TAGGED):
            assert PROJECT in str(statement["Condition"])
        if statement["Effect"] == "Deny":
            # otherwise one could tag somebody else's cluster, and then terminate it
            assert statement["Action"] == "elasticmapreduce:AddTags"
            assert str(statement["Resource"]).endswith(":cluster/j-*")
            denied += 1
        if "s3:" in actions:
            assert str(statement["Resource"]).startswith(f"arn:aws:s3:::{PROJECT}-")
    assert denied == 1


def test_the_role_of_jobs_has_the_projects_bucket_alone_and_serves_emr_serverless_alone() -> None:
    role, trust = (
        json.loads((ROOT / "emr" / "serverless" / f"{name}.json").read_text()) for name in ("role", "trust")
    )
    IAMPolicyDocumentValidator(json.dumps(role)).validate()
    for statement in role["Statement"]:
        assert all(action.startswith("s3:") and "*" not in action for action in statement["Action"])
        assert statement["Resource"].startswith(f"arn:aws:s3:::{PROJECT}-")
    (trusted,) = trust["Statement"]
    assert trusted["Principal"] == {"Service": "emr-serverless.amazonaws.com"}
