"""Checks of what a job run needs, before an application is created."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from common.errors import InputError
from emr.aws import Aws
from emr.roles import check_exists
from emr.serverless.plan import ApplicationPlan

SERVICE = "emr-serverless.amazonaws.com"
REMEDY = "docs/how-to/amazon-emr.md has the commands that make one"


def preflight(aws: Aws, plan: ApplicationPlan) -> list[str]:
    """Check that the role of jobs exists, and that EMR Serverless may take it.

    Returns:
        notes for the user.

    Raises:
        InputError: it does not exist, or EMR Serverless may not take it.
        RunError: AWS cannot be reached.
    """
    name = plan.role.rpartition("/")[2]
    found: dict[str, Any] = {}
    notes = check_exists("execution_role", name, lambda: found.update(aws.iam.get_role(RoleName=name)), REMEDY)
    trust = found.get("Role", {}).get("AssumeRolePolicyDocument")
    # botocore decodes the document; others hand it on as text
    text = json.dumps(trust) if isinstance(trust, dict) else unquote(trust or SERVICE)
    if SERVICE not in text:
        raise InputError(f"execution_role {name}: it does not trust {SERVICE}; {REMEDY}")
    return notes
