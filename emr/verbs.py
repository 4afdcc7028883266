"""What the verbs of the command line do."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.run.flags import PARSE_ONLY
from emr import clusters
from emr.aws import Aws, Clock, NotConfiguredError
from emr.bucket import Bucket
from emr.clusters import ACTIVE, UNDER_WAY, Record, tags_of
from emr.dependencies import dependencies_archive
from emr.deploy import Deployment
from emr.follow import DONE, WRONG, why_cluster, why_step
from emr.logs import Logs
from emr.package import ROOT, project_zip
from emr.plan import IMDSV2, SECURITY_CONFIGURATION, Plan
from emr.settings import Settings
from emr.terminal import Terminal

RUN = "RUN"
"""Stands for a name that has the time in it."""


@dataclass
class Context:
    """What a verb works with.

    Attributes:
        settings: what the user wants.
        person: hears of it.
        data_root: where named sets live.
        packages: where archives of dependencies are kept on this machine.
        dry_run: print what AWS would be asked, and do nothing.
        cluster: id that the user gave, or "".
        step: likewise.
        run: the name of a run folder, likewise.
    """

    settings: Settings
    person: Terminal
    data_root: Path
    packages: Path
    dry_run: bool = False
    cluster: str = ""
    step: str = ""
    run: str = ""

    @cached_property
    def aws(self) -> Aws:
        """The services."""
        return Aws(self.settings.region)

    @cached_property
    def plan(self) -> Plan:
        """The deployment, as the user's credentials make it."""
        aws = self.aws
        return self._plan(aws.region, *aws.identity)

    @cached_property
    def imagined(self) -> Plan:
        """The same, with names in capitals where nothing is known without credentials."""
        try:
            aws = self.aws
        except NotConfiguredError as error:
            return self._imagined(error)
        try:
            aws.identity  # noqa: B018
        except InputError as error:  # no credentials, expired ones, or no network
            return self._imagined(error)
        return self.plan

    def _imagined(self, why: InputError) -> Plan:
        self.person.line(f"AWS is not asked ({why}); ACCOUNT, YOU and REGION below stand for yours")
        return self._plan(self.settings.region or "REGION", "ACCOUNT", "YOU")

    def _plan(self, region: str, account: str, owner: str) -> Plan:
        return Plan.of(self.settings, region, account, owner, self.data_root, self.packages)

    def bucket(self) -> Bucket:
        """Where the project's objects are; no job's data need to be there for that.

        Raises:
            InputError: there is none.
        """
        bucket = Bucket(self.aws, self.settings.bucket_in(self.aws.identity.account, self.aws.region))
        if bucket.region() is None:
            raise InputError(f"bucket {bucket.name}: there is none; nothing was deployed from here")
        return bucket

    @property
    def imagined_bucket(self) -> str:
        """Its name, for a verb that asks AWS nothing."""
        return self.settings.bucket_in("ACCOUNT", self.settings.region or "REGION")

    def mine(self, states: list[str]) -> Iterator[Record]:
        """Clusters that this user deployed, newest first; all that are there without states."""
        owner = self.aws.identity.arn
        return (own for own in clusters.listed(self.aws, states) if tags_of(own).get("deployed-by") == owner)

    def target(self, states: list[str]) -> Record:
        """The cluster the user names, or the newest of theirs.

        Raises:
            InputError: there is none.
        """
        if self.cluster:
            return clusters.describe(self.aws, self.cluster)
        found = next(self.mine(states), None)
        if found is None:
            raise InputError("no cluster of yours is there; --cluster names one, `make emr-list` shows all")
        return found

    def step_of(self, cluster: Record) -> Record:
        """The step the user names, or the cluster's newest.

        Raises:
            InputError: there is none.
        """
        steps = clusters.steps(self.aws, cluster["Id"])
        found = next((step for step in steps if self.step in ("", step["Id"])), None)
        if found is None:
            raise InputError(f"cluster {cluster['Id']} has no step {self.step}".rstrip())
        return found


def package(context: Context) -> int:
    """Make the archives."""
    settings = context.settings
    if context.dry_run:
        artefacts = context.imagined.artefacts
        print("\n".join(f"would make {own.what}: {own.key.rpartition('/')[2]}" for own in artefacts))
        return DONE
    context.person.live(f"packages for Python {settings.python} on {settings.architecture}")
    archive = dependencies_archive(context.packages, settings.python, settings.architecture)
    project = project_zip(context.packages.parent / "project.zip")
    for path in (project, archive):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return DONE


def deploy(context: Context) -> int:
    """Everything."""
    if context.dry_run:
        return _show_deployment(context.imagined)
    return Deployment(context.aws, Clock(), context.plan, context.person).run()


def submit(context: Context) -> int:
    """Run a job on a cluster that is there."""
    if context.dry_run:
        plan = context.imagined
        print(f"would run `{_job(plan)}` on {context.cluster or 'your newest cluster'}, and leave that there\n")
        _show_uploads(plan)
        _show("emr", "add_job_flow_steps", JobFlowId=context.cluster or "CLUSTER", Steps=[plan.step(RUN)])
        _show("emr", "describe_step", ClusterId=context.cluster or "CLUSTER", StepId="STEP")
        return DONE
    cluster = context.target(ACTIVE)
    if cluster["Status"]["State"] not in ACTIVE:
        raise InputError(f"cluster {cluster['Id']}: {why_cluster(cluster)}; it takes no more steps")
    machines = tags_of(cluster).get("machines")
    if machines and machines != context.plan.shape:
        context.person.line(
            f"cluster {cluster['Id']} was started with other machines ({machines}) than the settings say "
            f"({context.plan.shape}), for which Spark is sized"
        )
    return Deployment(context.aws, Clock(), context.plan, context.person, str(cluster["Id"])).run()


def status(context: Context) -> int:
    """How a cluster and its steps are."""
    if context.dry_run:
        _show_finding(context, [])
        _show("emr", "list_steps", ClusterId=context.cluster or "CLUSTER")
        return DONE
    cluster = context.target([])
    print(f"{cluster['Id']}  {why_cluster(cluster)}")
    for step in clusters.steps(context.aws, cluster["Id"]):
        state = step["Status"]["State"]
        print(f"  {step['Id']}  {step['Name']}: {state}" + (f"; {why_step(step)}" if state == "FAILED" else ""))
    return DONE


def logs(context: Context) -> int:
    """What a step's logs say."""
    if context.dry_run:
        _show_finding(context, [])
        prefix = f"{context.settings.logs}{context.cluster or 'CLUSTER'}/steps/{context.step or 'STEP'}/"
        _show("s3", "list_objects_v2", Bucket=context.imagined_bucket, Prefix=prefix)
        return DONE
    cluster = context.target([])
    step = context.step_of(cluster)
    texts = Logs(context.bucket(), f"{context.settings.logs}{cluster['Id']}/", step["Id"]).texts()
    if not texts:
        raise InputError(f"no logs of step {step['Id']} have come yet; they take 3 to 4 minutes")
    for key, text in texts.items():
        print(f"==> {key} <==\n{text}")
    return DONE


def fetch(context: Context) -> int:
    """Bring a run folder to this machine."""
    runs = context.settings.runs
    if context.dry_run:
        _show("s3", "list_objects_v2", Bucket=context.imagined_bucket, Prefix=runs + context.run)
        return DONE
    bucket = context.bucket()
    there = bucket.folders(runs)
    if context.run and context.run not in there:
        raise InputError(f"--run {context.run}: not among the run folders there, {', '.join(there) or 'none'}")
    if not there:
        raise InputError(f"s3://{bucket.name}/{runs}: no run folders are there")
    newest = max(there, key=lambda name: name.split("-")[-3:])  # date, time, and a key to tell them apart
    run = context.run or newest
    folder = Path(context.settings.fetch_to) / run
    if folder.exists():
        context.person.line(f"{folder} is here already")
    else:
        bucket.fetch(f"{runs}{run}/", folder)
    print(f"report: {folder.absolute() / 'report.html'}")
    return DONE


def cancel(context: Context) -> int:
    """Cancel a step."""
    if context.dry_run:
        _show_finding(context, ACTIVE)
        _show("emr", "cancel_steps", ClusterId=context.cluster or "CLUSTER", StepIds=[context.step or "STEP"])
        _show("emr", "add_job_flow_steps", "to kill what it left to YARN", JobFlowId=context.cluster or "CLUSTER")
        return DONE
    cluster = context.target(ACTIVE)
    step = context.step_of(cluster)
    if step["Status"]["State"] not in UNDER_WAY:
        raise InputError(f"step {step['Id']} is {step['Status']['State']} already")
    if not clusters.run_of(step):
        raise InputError(f"step {step['Id']} ({step['Name']}): none of this project's, so not ours to cancel")
    print(f"{step['Id']} on {cluster['Id']}: {clusters.cancel(context.aws, cluster['Id'], step['Id'])}")
    clusters.kill_application(context.aws, cluster["Id"], clusters.run_of(step))
    return DONE


def terminate(context: Context) -> int:
    """Terminate the user's clusters, or one."""
    if context.dry_run:
        _show_finding(context, ACTIVE)
        _show("emr", "terminate_job_flows", JobFlowIds=[context.cluster or "each of yours"])
        return DONE
    ids = [context.cluster] if context.cluster else [str(own["Id"]) for own in context.mine(ACTIVE)]
    for own in ids:
        print(f"{own}: {'terminating' if clusters.terminate(context.aws, own) else 'has ended already'}")
    if not ids:
        print("no cluster of yours runs")
    return DONE


def everything(context: Context) -> int:
    """All that this project has on AWS."""
    if context.dry_run:
        _show_finding(context, [])
        prefix = f"{context.settings.prefix}/"
        _show("s3", "list_objects_v2", Bucket=context.imagined_bucket, Prefix=prefix)
        return DONE
    found = list(clusters.listed(context.aws, []))
    print(f"{len(found)} clusters in {context.aws.region} (Amazon EMR forgets them after two months)")
    for own in found:
        created = own["Status"]["Timeline"]["CreationDateTime"]
        owner = tags_of(own).get("deployed-by", "?")
        print(f"  {own['Id']}  {own['Status']['State']:22}  {created:%Y-%m-%d %H:%M}  {owner}")
    name = context.settings.bucket_in(context.aws.identity.account, context.aws.region)
    bucket = Bucket(context.aws, name)
    if bucket.region() is None:
        print(f"no bucket is called {name}")
    else:
        for what in ("artefacts", "data", "runs", "logs"):
            prefix = f"{context.settings.prefix}/{what}/"
            sizes = [entry["Size"] for entry in bucket.objects(prefix)]
            print(f"s3://{name}/{prefix}: {len(sizes)} objects, {sum(sizes) / 1e6:.1f} MB")
    if any(own["Status"]["State"] in ACTIVE for own in found):
        print("`make emr-terminate` ends yours; `python -m emr terminate --cluster ID` ends another")
    return DONE


def check_flags(job: str, words: list[str]) -> None:
    """Have the job itself look at its flags, before a cluster does.

    Raises:
        InputError: what it says of them.
    """
    done = subprocess.run(
        [sys.executable, str(ROOT / "spark_jobs" / f"{job}.py"), *words],
        env={**os.environ, PARSE_ONLY: "1"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == WRONG:
        raise InputError(done.stderr.strip().splitlines()[-1])


def _job(plan: Plan) -> str:
    return shlex.join([plan.settings.job, *plan.words])


def _show_deployment(plan: Plan) -> int:
    """What a deployment would ask for, in order."""
    own = plan.settings
    print(f"would run `{_job(plan)}` on Amazon EMR ({own.release}, Python {own.python}) in {plan.region}")
    print(f"cluster: {plan.machines()}; {plan.n_machines} machine-hours for each hour that it runs")
    stays = "kept" if own.keep else "terminated as soon as the results are here"
    print(f"         {stays}; ends itself after {own.idle_minutes} minutes without work, whatever happens here")
    print(f"         the job is cancelled after {own.timeout_minutes} minutes")
    where = (
        plan.table or f"{own.fetch_to}/{RUN} on this machine, by way of {plan.address(plan.settings.runs + RUN)}"
    )
    print(f"results: {where}\n")
    _show("sts", "get_caller_identity")
    _show("s3", "head_bucket", Bucket=plan.bucket)
    _show("s3", "create_bucket", "if there is none; it is closed to the public", Bucket=plan.bucket)
    _show("emr", "describe_release_label", ReleaseLabel=own.release)
    _show("iam", "get_role", RoleName=own.service_role)
    _show("iam", "get_instance_profile", InstanceProfileName=own.instance_profile)
    configuration = json.dumps(IMDSV2)
    _show(
        "emr", "create_security_configuration", "if describe_security_configuration finds none",
        Name=SECURITY_CONFIGURATION, SecurityConfiguration=configuration,
    )  # fmt: skip
    _show_uploads(plan)
    left = "one that an earlier attempt left is taken, with the step that list_steps finds"
    _show("emr", "list_clusters", left, ClusterStates=ACTIVE)
    _show("emr", "run_job_flow", **plan.cluster(RUN))
    _show("emr", "describe_cluster", "every 5 to 30 seconds", ClusterId="CLUSTER")
    _show("emr", "describe_step", "likewise", ClusterId="CLUSTER", StepId="STEP")
    if not plan.table:
        _show(
            "s3",
            "list_objects_v2",
            "and get_object of each",
            Bucket=plan.bucket,
            Prefix=f"{plan.settings.runs}{RUN}/",
        )
    if not own.keep:
        _show("emr", "terminate_job_flows", JobFlowIds=["CLUSTER"])
    return DONE


def _show_uploads(plan: Plan) -> None:
    for artefact in plan.artefacts:
        when = f"{artefact.what}, if head_object does not find it"
        _show("s3", "put_object", when, Bucket=plan.bucket, Key=artefact.key)


def _show_finding(context: Context, states: list[str]) -> None:
    if context.cluster:
        _show("emr", "describe_cluster", ClusterId=context.cluster)
    else:
        _show("emr", "list_clusters", "then describe_cluster of each, for its tags", ClusterStates=states)


def _show(service: str, operation: str, when: str = "", **request: Any) -> None:
    """One request as it would be sent."""
    note = f"  # {when}" if when else ""
    print(f"{service}.{operation}{note}")
    if request:
        print("  " + json.dumps(request, indent=2, ensure_ascii=False).replace("\n", "\n  "))
