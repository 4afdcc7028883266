"""The dry run of each verb for applications: print the requests that it would send, and send none."""

from __future__ import annotations

from emr.context import Context
from emr.follow import DONE
from emr.serverless.applications import ACTIVE
from emr.serverless.plan import ApplicationPlan
from emr.shown import RUN, command, show, show_fetch, show_listing, show_results, show_setup, show_uploads

APPLICATION, JOB_RUN = "APPLICATION", "JOBRUN"
"""Placeholders for ids that are known only once something runs."""


def deploy(context: Context) -> int:
    """Print the requests of a deployment, in order."""
    plan = context.dry_run_plan(ApplicationPlan)
    plan.check(starts_host=True)
    settings = plan.settings
    _summarise(plan)
    show_setup(plan)
    show("iam", "get_role", RoleName=plan.role.rpartition("/")[2])
    show_uploads(plan)
    reused = "an application that an earlier attempt left is used, with the job run that list_job_runs finds"
    show("emr-serverless", "list_applications", reused, states=ACTIVE)
    show("emr-serverless", "create_application", **plan.application(RUN))
    show("emr-serverless", "get_application", "until it is created", applicationId=APPLICATION)
    show("emr-serverless", "start_job_run", **plan.job_run(APPLICATION, RUN))
    follows = "every 1 to 30 seconds"
    show("emr-serverless", "get_job_run", follows, applicationId=APPLICATION, jobRunId=JOB_RUN)
    show_fetch(plan)
    if not settings.keep:
        _show_end(APPLICATION)
    return DONE


def submit(context: Context) -> int:
    """Print the requests of a job on an application that is kept."""
    plan = context.dry_run_plan(ApplicationPlan)
    plan.check(starts_host=False)
    host = context.host or APPLICATION
    print(f"would run `{command(plan)}` on {context.host or 'your newest application'}, and leave that there\n")
    show_uploads(plan)
    show("emr-serverless", "start_job_run", **plan.job_run(host, RUN))
    show("emr-serverless", "get_job_run", applicationId=host, jobRunId=JOB_RUN)
    return DONE


def status(context: Context) -> int:
    """Print the requests for the state of an application."""
    _show_search(context)
    show("emr-serverless", "list_job_runs", applicationId=context.host or APPLICATION)
    return DONE


def logs(context: Context) -> int:
    """Print the requests for the logs of a job run."""
    _show_search(context)
    host, run = context.host or APPLICATION, context.work or JOB_RUN
    prefix = f"{context.settings.logs}applications/{host}/jobs/{run}/"
    show("s3", "list_objects_v2", Bucket=context.dry_run_bucket, Prefix=prefix)
    return DONE


def cancel(context: Context) -> int:
    """Print the request that cancels a job run."""
    _show_search(context)
    host, run = context.host or APPLICATION, context.work or JOB_RUN
    show("emr-serverless", "cancel_job_run", applicationId=host, jobRunId=run)
    return DONE


def terminate(context: Context) -> int:
    """Print the requests that delete applications."""
    _show_search(context)
    _show_end(context.host or "each of yours")
    return DONE


def list_all(context: Context) -> int:
    """Print the requests for everything that this project has on AWS."""
    _show_search(context)
    show_listing(context)
    return DONE


def _summarise(plan: ApplicationPlan) -> None:
    """Print what a deployment runs, on which workers, for how long, and where the results go."""
    settings = plan.settings
    release = f"{settings.release}, Python {settings.python}"
    print(f"would run `{command(plan)}` on Amazon EMR Serverless ({release}) in {plan.region}")
    print(f"workers: {plan.machines()}; at most {plan.most()} for a job")
    afterwards = "kept" if settings.keep else "deleted as soon as the results are here"
    print(f"         the application is {afterwards}; it stops after {settings.idle_minutes} minutes without work")
    show_results(plan)


def _show_search(context: Context) -> None:
    """Print the requests that find the application."""
    if context.host:
        show("emr-serverless", "get_application", applicationId=context.host)
    else:
        show("emr-serverless", "list_applications", "then get_application of each, for its tags", states=ACTIVE)


def _show_end(application: str) -> None:
    """Print the requests that end an application."""
    show("emr-serverless", "stop_application", applicationId=application)
    show("emr-serverless", "delete_application", applicationId=application)
