"""The verbs of the command line. Each returns its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common.errors import InputError
from common.run.parser import PARSE_ONLY
from emr import clusters
from emr.aws import Clock
from emr.clusters import ACTIVE, UNDER_WAY, tags_of
from emr.context import Context
from emr.dependencies import dependencies_archive
from emr.deploy import Deployment
from emr.follow import DONE, WRONG, describe_cluster_state, describe_step_failure
from emr.logs import Logs
from emr.package import ROOT, project_zip


def package(context: Context) -> int:
    """Make the archives, and print their paths and sizes."""
    settings = context.settings
    context.reporter.status(f"packages for Python {settings.python} on {settings.architecture}")
    archive = dependencies_archive(context.packages, settings.python, settings.architecture)
    project = project_zip(context.packages.parent / "project.zip")
    for path in (project, archive):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return DONE


def deploy(context: Context) -> int:
    """Run a job on a cluster of its own, from the upload to the results."""
    return Deployment(context.aws, Clock(), context.plan, context.reporter).run()


def submit(context: Context) -> int:
    """Run a job on a running cluster, and leave the cluster running."""
    cluster = context.chosen_cluster(ACTIVE)
    if cluster["Status"]["State"] not in ACTIVE:
        raise InputError(f"cluster {cluster['Id']}: {describe_cluster_state(cluster)}; it takes no more steps")
    machines = tags_of(cluster).get("machines")
    if machines and machines != context.plan.shape:
        context.reporter.info(
            f"cluster {cluster['Id']} was started with other machines ({machines}) than the settings say "
            f"({context.plan.shape}), for which Spark is sized"
        )
    return Deployment(context.aws, Clock(), context.plan, context.reporter, str(cluster["Id"])).run()


def status(context: Context) -> int:
    """Print the states of a cluster and of its steps."""
    cluster = context.chosen_cluster([])
    print(f"{cluster['Id']}  {describe_cluster_state(cluster)}")
    for step in clusters.list_steps(context.aws, cluster["Id"]):
        state = step["Status"]["State"]
        reason = f"; {describe_step_failure(step)}" if state == "FAILED" else ""
        print(f"  {step['Id']}  {step['Name']}: {state}{reason}")
    return DONE


def logs(context: Context) -> int:
    """Print a step's logs."""
    cluster = context.chosen_cluster([])
    step = context.chosen_step(cluster)
    texts = Logs(context.bucket(), f"{context.settings.logs}{cluster['Id']}/", step["Id"]).texts()
    if not texts:
        raise InputError(f"no logs of step {step['Id']} have arrived yet; they take 3 to 4 minutes")
    for key, text in texts.items():
        print(f"==> {key} <==\n{text}")
    return DONE


def fetch(context: Context) -> int:
    """Fetch a run folder to this machine."""
    runs = context.settings.runs
    bucket = context.bucket()
    names = bucket.folders(runs)
    if context.run and context.run not in names:
        raise InputError(f"--run {context.run}: not among the run folders, {', '.join(names) or 'none'}")
    if not names:
        raise InputError(f"s3://{bucket.name}/{runs}: there are no run folders")
    newest = max(names, key=lambda name: name.split("-")[-3:])  # names end in date, time, and a key
    run = context.run or newest
    folder = Path(context.settings.fetch_to) / run
    if folder.exists():
        context.reporter.info(f"{folder} already exists")
    else:
        bucket.fetch(f"{runs}{run}/", folder)
    print(f"report: {folder.absolute() / 'report.html'}")
    return DONE


def cancel(context: Context) -> int:
    """Cancel a step, and kill its YARN application."""
    cluster = context.chosen_cluster(ACTIVE)
    step = context.chosen_step(cluster)
    if step["Status"]["State"] not in UNDER_WAY:
        raise InputError(f"step {step['Id']} is already {step['Status']['State']}")
    run = clusters.run_name(step)
    if not run:
        raise InputError(f"step {step['Id']} ({step['Name']}): none of this project's, so not ours to cancel")
    print(f"{step['Id']} on {cluster['Id']}: {clusters.cancel(context.aws, cluster['Id'], step['Id'])}")
    clusters.kill_application(context.aws, cluster["Id"], run)
    return DONE


def terminate(context: Context) -> int:
    """Terminate the user's clusters, or the one that the user names."""
    if context.cluster:
        ids = [context.cluster]
    else:
        ids = [str(cluster["Id"]) for cluster in context.own_clusters(ACTIVE)]
    for cluster_id in ids:
        active = clusters.terminate(context.aws, cluster_id)
        print(f"{cluster_id}: {'terminating' if active else 'has already ended'}")
    if not ids:
        print("you have no running cluster")
    return DONE


def list_all(context: Context) -> int:
    """Print everything that this project has on AWS."""
    found = list(clusters.list_ours(context.aws, []))
    print(f"{len(found)} clusters in {context.aws.region} (Amazon EMR forgets them after two months)")
    for cluster in found:
        created = cluster["Status"]["Timeline"]["CreationDateTime"]
        owner = tags_of(cluster).get("deployed-by", "?")
        print(f"  {cluster['Id']}  {cluster['Status']['State']:22}  {created:%Y-%m-%d %H:%M}  {owner}")
    bucket = context.project_bucket()
    if bucket.region() is None:
        print(f"no bucket is called {bucket.name}")
    else:
        for folder in ("artefacts", "data", "runs", "logs"):
            prefix = f"{context.settings.prefix}/{folder}/"
            sizes = [entry["Size"] for entry in bucket.objects(prefix)]
            print(f"s3://{bucket.name}/{prefix}: {len(sizes)} objects, {sum(sizes) / 1e6:.1f} MB")
    if any(cluster["Status"]["State"] in ACTIVE for cluster in found):
        print("`make emr-terminate` ends yours; `python -m emr terminate --cluster ID` ends another")
    return DONE


def check_flags(job: str, words: list[str]) -> None:
    """Start the job on this machine only to check its flags, before a cluster does.

    Raises:
        InputError: the job refuses its flags; the message is the job's.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "spark_jobs" / f"{job}.py"), *words],
        env={**os.environ, PARSE_ONLY: "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == WRONG:
        raise InputError(done.stderr.strip().splitlines()[-1])
