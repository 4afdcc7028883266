"""The dry run of each verb: print the requests that the verb would send to AWS, and send none of them."""

from __future__ import annotations

import json
import shlex
from typing import Any

from emr.clusters import ACTIVE
from emr.context import Context
from emr.follow import DONE
from emr.plan import IMDSV2, SECURITY_CONFIGURATION, Plan

CLUSTER, STEP, RUN = "CLUSTER", "STEP", "RUN"
"""Placeholders for ids and names that are known only once something runs."""


def package(context: Context) -> int:
    """Print the names of the archives."""
    for artefact in context.dry_run_plan.artefacts:
        print(f"would make {artefact.what}: {artefact.key.rpartition('/')[2]}")
    return DONE


def deploy(context: Context) -> int:
    """Print the requests of a deployment, in order."""
    plan = context.dry_run_plan
    settings = plan.settings
    _summarise(plan)
    _show("sts", "get_caller_identity")
    _show("s3", "head_bucket", Bucket=plan.bucket)
    _show("s3", "create_bucket", "if there is none; it is closed to the public", Bucket=plan.bucket)
    _show("emr", "describe_release_label", ReleaseLabel=settings.release)
    _show("iam", "get_role", RoleName=settings.service_role)
    _show("iam", "get_instance_profile", InstanceProfileName=settings.instance_profile)
    _show(
        "emr",
        "create_security_configuration",
        "if describe_security_configuration finds none",
        Name=SECURITY_CONFIGURATION,
        SecurityConfiguration=json.dumps(IMDSV2),
    )
    _show_uploads(plan)
    reused = "a cluster that an earlier attempt left is used, with the step that list_steps finds"
    _show("emr", "list_clusters", reused, ClusterStates=ACTIVE)
    _show("emr", "run_job_flow", **plan.cluster(RUN))
    _show("emr", "describe_cluster", "every 1 to 30 seconds", ClusterId=CLUSTER)
    _show("emr", "describe_step", "likewise", ClusterId=CLUSTER, StepId=STEP)
    if not plan.table:
        run_folder = f"{settings.runs}{RUN}/"
        _show("s3", "list_objects_v2", "and get_object of each", Bucket=plan.bucket, Prefix=run_folder)
    if not settings.keep:
        _show("emr", "terminate_job_flows", JobFlowIds=[CLUSTER])
    return DONE


def submit(context: Context) -> int:
    """Print the requests of a job on a running cluster."""
    plan = context.dry_run_plan
    print(f"would run `{_command(plan)}` on {context.cluster or 'your newest cluster'}, and leave that there\n")
    _show_uploads(plan)
    _show("emr", "add_job_flow_steps", JobFlowId=context.cluster or CLUSTER, Steps=[plan.step(RUN)])
    _show("emr", "describe_step", ClusterId=context.cluster or CLUSTER, StepId=STEP)
    return DONE


def status(context: Context) -> int:
    """Print the requests for the state of a cluster."""
    _show_search(context, [])
    _show("emr", "list_steps", ClusterId=context.cluster or CLUSTER)
    return DONE


def logs(context: Context) -> int:
    """Print the requests for a step's logs."""
    _show_search(context, [])
    prefix = f"{context.settings.logs}{context.cluster or CLUSTER}/steps/{context.step or STEP}/"
    _show("s3", "list_objects_v2", Bucket=context.dry_run_bucket, Prefix=prefix)
    return DONE


def fetch(context: Context) -> int:
    """Print the request for a run folder."""
    prefix = context.settings.runs + context.run
    _show("s3", "list_objects_v2", Bucket=context.dry_run_bucket, Prefix=prefix)
    return DONE


def cancel(context: Context) -> int:
    """Print the requests that cancel a step."""
    cluster = context.cluster or CLUSTER
    _show_search(context, ACTIVE)
    _show("emr", "cancel_steps", ClusterId=cluster, StepIds=[context.step or STEP])
    _show("emr", "add_job_flow_steps", "to kill the step's YARN application", JobFlowId=cluster)
    return DONE


def terminate(context: Context) -> int:
    """Print the requests that terminate clusters."""
    _show_search(context, ACTIVE)
    _show("emr", "terminate_job_flows", JobFlowIds=[context.cluster or "each of yours"])
    return DONE


def list_all(context: Context) -> int:
    """Print the requests for everything that this project has on AWS."""
    _show_search(context, [])
    _show("s3", "list_objects_v2", Bucket=context.dry_run_bucket, Prefix=f"{context.settings.prefix}/")
    return DONE


def _summarise(plan: Plan) -> None:
    """Print what a deployment runs, on which machines, for how long, and where the results go."""
    settings = plan.settings
    release = f"{settings.release}, Python {settings.python}"
    print(f"would run `{_command(plan)}` on Amazon EMR ({release}) in {plan.region}")
    print(f"cluster: {plan.machines()}; {plan.n_machines} machine-hours for each hour that it runs")
    afterwards = "kept" if settings.keep else "terminated as soon as the results are here"
    print(f"         {afterwards}; ends itself after {settings.idle_minutes} minutes without work in any case")
    print(f"         the job is cancelled after {settings.timeout_minutes} minutes")
    on_s3 = plan.address(settings.runs + RUN)
    print(f"results: {plan.table or f'{settings.fetch_to}/{RUN} on this machine, by way of {on_s3}'}\n")


def _command(plan: Plan) -> str:
    """Return the job and its flags as one would type them."""
    return shlex.join([plan.settings.job, *plan.words])


def _show_uploads(plan: Plan) -> None:
    """Print the uploads of artefacts."""
    for artefact in plan.artefacts:
        note = f"{artefact.what}, if head_object does not find it"
        _show("s3", "put_object", note, Bucket=plan.bucket, Key=artefact.key)


def _show_search(context: Context, states: list[str]) -> None:
    """Print the requests that find the cluster."""
    if context.cluster:
        _show("emr", "describe_cluster", ClusterId=context.cluster)
    else:
        _show("emr", "list_clusters", "then describe_cluster of each, for its tags", ClusterStates=states)


def _show(service: str, operation: str, note: str = "", **request: Any) -> None:
    """Print one request, with its parameters as they would be sent."""
    print(f"{service}.{operation}{f'  # {note}' if note else ''}")
    if request:
        print("  " + json.dumps(request, indent=2, ensure_ascii=False).replace("\n", "\n  "))
