"""The dry run of each verb for clusters: print the requests that it would send, and send none."""

from __future__ import annotations

import json

from emr.context import Context
from emr.ec2.clusters import ACTIVE
from emr.ec2.plan import IMDSV2, SECURITY_CONFIGURATION, ClusterPlan
from emr.follow import DONE
from emr.shown import RUN, command, show, show_fetch, show_listing, show_results, show_setup, show_uploads

CLUSTER, STEP = "CLUSTER", "STEP"
"""Placeholders for ids that are known only once something runs."""


def deploy(context: Context) -> int:
    """Print the requests of a deployment, in order."""
    plan = context.dry_run_plan(ClusterPlan)
    plan.check(starts_host=True)
    settings = plan.settings
    _summarise(plan)
    show_setup(plan)
    show("emr", "describe_release_label", ReleaseLabel=settings.release)
    show("iam", "get_role", RoleName=settings.service_role)
    show("iam", "get_instance_profile", InstanceProfileName=settings.instance_profile)
    show(
        "emr",
        "create_security_configuration",
        "if describe_security_configuration finds none",
        Name=SECURITY_CONFIGURATION,
        SecurityConfiguration=json.dumps(IMDSV2),
    )
    show_uploads(plan)
    reused = "a cluster that an earlier attempt left is used, with the step that list_steps finds"
    show("emr", "list_clusters", reused, ClusterStates=ACTIVE)
    show("emr", "run_job_flow", **plan.cluster(RUN))
    show("emr", "describe_cluster", "every 1 to 30 seconds", ClusterId=CLUSTER)
    show("emr", "describe_step", "likewise", ClusterId=CLUSTER, StepId=STEP)
    show_fetch(plan)
    if not settings.keep:
        show("emr", "terminate_job_flows", JobFlowIds=[CLUSTER])
    return DONE


def submit(context: Context) -> int:
    """Print the requests of a job on a running cluster."""
    plan = context.dry_run_plan(ClusterPlan)
    plan.check(starts_host=False)
    print(f"would run `{command(plan)}` on {context.host or 'your newest cluster'}, and leave that there\n")
    show_uploads(plan)
    show("emr", "add_job_flow_steps", JobFlowId=context.host or CLUSTER, Steps=[plan.step(RUN)])
    show("emr", "describe_step", ClusterId=context.host or CLUSTER, StepId=STEP)
    return DONE


def status(context: Context) -> int:
    """Print the requests for the state of a cluster."""
    _show_search(context, [])
    show("emr", "list_steps", ClusterId=context.host or CLUSTER)
    return DONE


def logs(context: Context) -> int:
    """Print the requests for a step's logs."""
    _show_search(context, [])
    prefix = f"{context.settings.logs}{context.host or CLUSTER}/steps/{context.work or STEP}/"
    show("s3", "list_objects_v2", Bucket=context.dry_run_bucket, Prefix=prefix)
    return DONE


def cancel(context: Context) -> int:
    """Print the requests that cancel a step."""
    cluster = context.host or CLUSTER
    _show_search(context, ACTIVE)
    show("emr", "cancel_steps", ClusterId=cluster, StepIds=[context.work or STEP])
    show("emr", "add_job_flow_steps", "to kill the step's YARN application", JobFlowId=cluster)
    return DONE


def terminate(context: Context) -> int:
    """Print the requests that terminate clusters."""
    _show_search(context, ACTIVE)
    show("emr", "terminate_job_flows", JobFlowIds=[context.host or "each of yours"])
    return DONE


def list_all(context: Context) -> int:
    """Print the requests for everything that this project has on AWS."""
    _show_search(context, [])
    show_listing(context)
    return DONE


def _summarise(plan: ClusterPlan) -> None:
    """Print what a deployment runs, on which machines, for how long, and where the results go."""
    settings = plan.settings
    release = f"{settings.release}, Python {settings.python}"
    print(f"would run `{command(plan)}` on Amazon EMR ({release}) in {plan.region}")
    print(f"cluster: {plan.machines()}; {plan.n_machines} machine-hours for each hour that it runs")
    afterwards = "kept" if settings.keep else "terminated as soon as the results are here"
    print(f"         {afterwards}; ends itself after {settings.idle_minutes} minutes without work in any case")
    show_results(plan)


def _show_search(context: Context, states: list[str]) -> None:
    """Print the requests that find the cluster."""
    if context.host:
        show("emr", "describe_cluster", ClusterId=context.host)
    else:
        show("emr", "list_clusters", "then describe_cluster of each, for its tags", ClusterStates=states)
