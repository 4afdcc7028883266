"""Parts that all dry runs share: requests to S3, and the way to show a request."""

from __future__ import annotations

import json
import shlex
from typing import Any

from emr.context import Context
from emr.follow import DONE
from emr.plan import Plan

RUN = "RUN"
"""Placeholder for the name of a run folder, which is known only once something runs."""


def package(context: Context) -> int:
    """Print the names of the archives."""
    for artefact in context.dry_run_plan(context.plan_kind).artefacts:
        print(f"would make {artefact.what}: {artefact.key.rpartition('/')[2]}")
    return DONE


def fetch(context: Context) -> int:
    """Print the request for a run folder."""
    prefix = context.settings.runs + context.run
    show("s3", "list_objects_v2", Bucket=context.dry_run_bucket, Prefix=prefix)
    return DONE


def command(plan: Plan) -> str:
    """Return the job and its flags as one would type them."""
    return shlex.join([plan.settings.job, *plan.words])


def show_results(plan: Plan) -> None:
    """Print when the job is cancelled, and where the results go."""
    settings = plan.settings
    print(f"         the job is cancelled after {settings.timeout_minutes} minutes")
    on_s3 = plan.address(settings.runs + RUN)
    print(f"results: {plan.table or f'{settings.fetch_to}/{RUN} on this machine, by way of {on_s3}'}\n")


def show_setup(plan: Plan) -> None:
    """Print the requests for the caller and the bucket."""
    show("sts", "get_caller_identity")
    show("s3", "head_bucket", Bucket=plan.bucket)
    show("s3", "create_bucket", "if there is none; it is closed to the public", Bucket=plan.bucket)


def show_uploads(plan: Plan) -> None:
    """Print the uploads of artefacts."""
    for artefact in plan.artefacts:
        note = f"{artefact.what}, if head_object does not find it"
        show("s3", "put_object", note, Bucket=plan.bucket, Key=artefact.key)


def show_fetch(plan: Plan) -> None:
    """Print the request for the results."""
    if not plan.table:
        prefix = f"{plan.settings.runs}{RUN}/"
        show("s3", "list_objects_v2", "and get_object of each", Bucket=plan.bucket, Prefix=prefix)


def show_listing(context: Context) -> None:
    """Print the request for all objects of the project."""
    show("s3", "list_objects_v2", Bucket=context.dry_run_bucket, Prefix=f"{context.settings.prefix}/")


def show(service: str, operation: str, note: str = "", **request: Any) -> None:
    """Print one request, with its parameters as they would be sent."""
    print(f"{service}.{operation}{f'  # {note}' if note else ''}")
    if request:
        print("  " + json.dumps(request, indent=2, ensure_ascii=False).replace("\n", "\n  "))
