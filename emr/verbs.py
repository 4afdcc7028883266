"""The verbs of the command line. Each returns its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common.errors import InputError, JobError
from common.run.parser import PARSE_ONLY
from emr.bucket import project_bucket
from emr.context import Context
from emr.dependencies import dependencies_archive
from emr.follow import DONE, WRONG
from emr.package import ROOT, project_zip


def package(context: Context) -> int:
    """Make the archives, and print their paths and sizes."""
    settings = context.settings
    context.reporter.status(f"packages for Python {settings.python} on {settings.processor}")
    archive = dependencies_archive(context.packages, settings.python, settings.processor)
    project = project_zip(context.packages.parent / "project.zip")
    for path in (project, archive):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return DONE


def deploy(context: Context) -> int:
    """Run a job on a host of its own, from the upload to the results."""
    return context.deploy()


def submit(context: Context) -> int:
    """Run a job on an active host, and leave the host as it is."""
    host, kind = context.chosen_host(active=True), context.target.host
    if not host.active:
        raise InputError(f"{kind} {host.id}: {host.state}; it takes no more {context.target.work}s")
    if host.shape and host.shape != context.settings.shape:
        context.reporter.info(
            f"{kind} {host.id} was started with other machines ({host.shape}) than the settings say "
            f"({context.settings.shape}), for which Spark is sized"
        )
    return context.deploy(host.id)


def status(context: Context) -> int:
    """Print the states of a host and of its work."""
    host = context.chosen_host(active=False)
    print(f"{host.id}  {host.state}")
    for work in context.target.works(host.id):
        print(f"  {work.id}  {work.name}: {work.state}{f'; {work.failure}' if work.failure else ''}")
    return DONE


def logs(context: Context) -> int:
    """Print the logs of work."""
    host, work = context.host, context.work
    if not (host and work):  # with both, logs can be read of what is no longer listed
        chosen = context.chosen_host(active=False)
        host, work = chosen.id, context.chosen_work(chosen).id
    found = context.target.logs(host, work)
    found.bucket.existing()
    texts = found.texts()
    if not texts:
        raise InputError(f"no logs of {context.target.work} {work} have arrived yet; they take 3 to 4 minutes")
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
    """Cancel work, and whatever it has started."""
    host = context.chosen_host(active=True)
    work, kind = context.chosen_work(host), context.target.work
    if not work.under_way:
        raise InputError(f"{kind} {work.id} is already {work.state}")
    if not work.run:
        raise InputError(f"{kind} {work.id} ({work.name}): none of this project's, so not ours to cancel")
    print(f"{work.id} on {host.id}: {context.target.cancel(host.id, work, host_stays=True)}")
    return DONE


def terminate(context: Context) -> int:
    """End the user's hosts, or the one that the user names."""
    ids = [context.host] if context.host else [host.id for host in context.own_hosts(active=True)]
    failed: list[JobError] = []
    for host in ids:
        try:
            active = context.target.end(host)
        except JobError as error:  # the others are to end nevertheless
            failed.append(error)
        else:
            print(f"{host}: {'terminating' if active else 'has already ended'}")
    for earlier in failed[:-1]:
        context.reporter.error(str(earlier))
    if failed:
        raise failed[-1]
    if not ids:
        print(f"you have no running {context.target.host}")
    return DONE


def list_all(context: Context) -> int:
    """Print everything that this project has on AWS."""
    hosts = list(context.target.hosts(active=False))
    kind = context.target.host
    print(f"{len(hosts)} {kind}s in {context.aws.region} ({context.target.listed})")
    for host in hosts:
        print(f"  {host.id}  {host.state:22}  {host.created:%Y-%m-%d %H:%M}  {host.owner or '?'}")
    bucket = project_bucket(context.aws, context.settings)
    if bucket.region() is None:
        print(f"no bucket is called {bucket.name}")
    else:
        for folder in ("artefacts", "data", "runs", "logs"):
            prefix = f"{context.settings.prefix}/{folder}/"
            sizes = [entry["Size"] for entry in bucket.objects(prefix)]
            print(f"s3://{bucket.name}/{prefix}: {len(sizes)} objects, {sum(sizes) / 1e6:.1f} MB")
    if any(host.active for host in hosts):
        print(f"`make emr-terminate` ends yours; `python -m emr terminate --{kind} ID` ends another")
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
