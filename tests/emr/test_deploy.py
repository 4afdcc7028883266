"""Deployments under every fate of their steps and clusters, with a clock of their own (see scripted.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import emr.package
import emr.plan
from emr.ec2.plan import ClusterPlan
from emr.follow import CANCELLED, DONE, FAILED, TIMED_OUT
from emr.plan import digest
from tests.support.emr.deploying import TRACEBACK, RecordingReporter, deploy, fetched, plan_of
from tests.support.emr.scripted import RUNNING_S, WORK_S, Fate, Scripted
from tests.support.places import ROOT

pytestmark = pytest.mark.usefixtures("_small_packages")


@pytest.fixture(params=["ours", "theirs"])
def owned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "ours")


def run_under(fate: Fate, owned: bool, folder: Path, **more: Any) -> tuple[int, RecordingReporter, Scripted]:
    """Deploy on a cluster of ours, or submit to another's; check that ours is gone afterwards and theirs is not.

    Returns:
        the exit code, the messages and the services.
    """
    script, reporter = Scripted(), RecordingReporter()
    interrupt_at = more.pop("interrupt_at", None)
    cluster = "" if owned else script.foreign_cluster()
    script.fate, script.clock.interrupt_at = fate, interrupt_at
    code = deploy(script, folder, reporter, cluster, **more)
    assert len(script.clusters) == 1
    assert ("TerminateJobFlows" in script.calls) <= owned
    if owned:
        assert not script.running()
    elif fate.cluster is None:
        assert script.running() == [cluster]
    assert not list((folder / "runs").glob(".emr/*"))  # the deployment has finished
    return code, reporter, script


def test_a_job_that_is_done(tmp_path: Path, owned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    code, reporter, _ = run_under(Fate(), owned, tmp_path)
    assert code == DONE
    (run,) = fetched(tmp_path)
    assert capsys.readouterr().out == f"report: {tmp_path}/runs/{run}/report.html\n"
    assert (tmp_path / "runs" / run / "metrics.json").is_file()
    states = [
        "STARTING, step PENDING",
        "BOOTSTRAPPING, step PENDING",
        "RUNNING, step RUNNING",
        "WAITING, step COMPL",
    ]
    positions = [reporter.text.index(f"cluster {state}") for state in states]
    assert positions == sorted(positions)


def test_throttling_only_slows_down(tmp_path: Path, owned: bool) -> None:
    script = Scripted()
    cluster = "" if owned else script.foreign_cluster()
    script.throttled = 9
    assert deploy(script, tmp_path, cluster=cluster) == DONE
    assert script.throttled == 0


@pytest.mark.parametrize("name", ["stdout.gz", "stdout.txt.gz", "stdout"])
def test_a_job_that_failed_says_why(tmp_path: Path, owned: bool, name: str) -> None:
    details = {"Reason": "Unknown Error.", "Message": "Exit code 1", "LogFile": "s3://b/stderr.gz"}
    fate = Fate("FAILED", details, log=TRACEBACK, log_name=name)
    code, reporter, _ = run_under(fate, owned, tmp_path)
    assert code == FAILED
    assert "the step failed: Unknown Error.: Exit code 1 (log: s3://b/stderr.gz)" in reporter.messages
    assert reporter.messages[-2 if owned else -1].endswith("ZeroDivisionError: division by zero")
    assert fetched(tmp_path) == []


def test_a_job_that_failed_without_a_reason(tmp_path: Path, owned: bool) -> None:
    code, reporter, script = run_under(Fate("FAILED"), owned, tmp_path)
    assert code == FAILED
    assert "the step failed: Amazon EMR gives no reason" in reporter.messages
    later = "`python -m emr logs --target ec2 --cluster j-1 --step s-j-1-1`, or s3://"
    assert f"no traceback is in the logs yet: {later}" in reporter.text
    assert script.clock.now() - script.clock.began < RUNNING_S + WORK_S + 600


def test_a_cluster_that_does_not_start(tmp_path: Path) -> None:
    died = (
        "BOOTSTRAP_FAILURE",
        "On the master instance (i-1), bootstrap action 1 returned a non-zero return code",
    )
    code, reporter, _ = run_under(Fate(cluster=died, dies_after=100), True, tmp_path)
    assert code == FAILED
    assert (
        "the cluster failed before the job could run: TERMINATING: BOOTSTRAP_FAILURE: On the master"
        in reporter.text
    )


def test_a_cluster_that_is_lost(tmp_path: Path, owned: bool) -> None:
    code, reporter, _ = run_under(Fate(cluster=("INSTANCE_FAILURE", "All slaves were lost")), owned, tmp_path)
    assert code == FAILED
    assert (
        "the cluster was lost while the step was INTERRUPTED: TERMINATING: INSTANCE_FAILURE: All sl"
        in reporter.text
    )


def test_a_job_that_takes_too_long(tmp_path: Path, owned: bool) -> None:
    code, reporter, script = run_under(Fate(""), owned, tmp_path, timeout_minutes=30)
    assert code == TIMED_OUT
    assert "no end after 30:00: cluster RUNNING, step RUNNING" in reporter.messages
    assert "CancelSteps" in script.calls
    assert 1800 <= script.clock.now() - script.clock.began < 1900


@pytest.mark.parametrize("at", [5, RUNNING_S + 30])
def test_interrupted(tmp_path: Path, owned: bool, at: float) -> None:
    code, reporter, script = run_under(Fate(), owned, tmp_path, interrupt_at=at)
    assert code == CANCELLED
    assert "interrupted" in reporter.messages
    assert script.calls.count("CancelSteps") == 1
    assert fetched(tmp_path) == []
    if not owned:  # cancelling ends only the step's own process, and the YARN application goes on
        kill = script.clusters["j-1"].steps[-1].config
        assert kill["Name"].startswith("kill gram-digits-")
        assert kill["Name"].removeprefix("kill ") in kill["HadoopJarStep"]["Args"][-1]


def test_a_step_that_is_not_listed_yet_is_cancelled_too(tmp_path: Path) -> None:
    script = Scripted()
    cluster = script.foreign_cluster()
    script.clock.interrupt_at, script.listed_after = RUNNING_S + 30, 10_000
    assert deploy(script, tmp_path, cluster=cluster) == CANCELLED
    assert script.calls.count("CancelSteps") == 1


def test_the_user_may_decide_against_stopping(tmp_path: Path) -> None:
    script, reporter = Scripted(), RecordingReporter(stops=False)
    script.clock.interrupt_at = RUNNING_S
    assert deploy(script, tmp_path, reporter) == DONE
    assert "CancelSteps" not in script.calls


def test_somebody_else_cancels(tmp_path: Path, owned: bool) -> None:
    script, reporter = Scripted(), RecordingReporter()
    cluster = "" if owned else script.foreign_cluster()
    describe_step = script.describe_step

    def cancelled(params: dict[str, Any]) -> dict[str, Any]:
        if script.clock.now() - script.clock.began > RUNNING_S + 10:
            script.cancel_steps({"ClusterId": params["ClusterId"], "StepIds": [params["StepId"]]})
        return describe_step(params)

    script.describe_step = cancelled  # type: ignore[method-assign]
    assert deploy(script, tmp_path, reporter, cluster) == CANCELLED
    assert "the step was cancelled" in reporter.messages
    assert script.running() == ([] if owned else [cluster])


def test_somebody_else_terminates_the_cluster(tmp_path: Path) -> None:
    script, reporter = Scripted(), RecordingReporter()
    describe_step = script.describe_step

    def gone(params: dict[str, Any]) -> dict[str, Any]:
        if script.clock.now() - script.clock.began > RUNNING_S + 10:
            cluster = script.clusters[params["ClusterId"]]
            cluster.terminated = cluster.terminated or script.clock.now()
        return describe_step(params)

    script.describe_step = gone  # type: ignore[method-assign]
    assert deploy(script, tmp_path, reporter) == CANCELLED
    assert "USER_REQUEST: Terminated by user request" in reporter.text


def test_a_missing_permission_leaves_no_cluster(tmp_path: Path) -> None:
    script, reporter = Scripted(), RecordingReporter()
    script.refused["DescribeStep"] = ("AccessDeniedException", "not authorized")
    assert deploy(script, tmp_path, reporter) == 2
    assert "emr/policy.json has the permissions that are needed" in reporter.text
    assert not script.running()


def test_a_cluster_with_other_work_is_left_to_it(tmp_path: Path) -> None:
    script, reporter = Scripted(), RecordingReporter()
    describe_step = script.describe_step

    def busy(params: dict[str, Any]) -> dict[str, Any]:
        cluster = script.clusters["j-1"]
        if len(cluster.steps) == 1:
            script.add_steps(cluster, [{"Name": "outer 1", "HadoopJarStep": {"Args": []}}])
        return describe_step(params)

    script.describe_step = busy  # type: ignore[method-assign]
    assert deploy(script, tmp_path, reporter) == DONE
    assert "cluster j-1 has other work (outer 1)" in reporter.messages[-1]
    assert script.running() == ["j-1"]


def test_a_kept_cluster_serves_again(tmp_path: Path) -> None:
    script = Scripted()
    assert deploy(script, tmp_path, keep=True) == DONE
    assert script.running() == ["j-1"]
    script.clock.time += 60
    assert deploy(script, tmp_path, keep=True) == DONE
    assert deploy(script, tmp_path, keep=True, job="outer") == DONE
    assert len(script.clusters) == 1
    assert len(script.clusters["j-1"].steps) == len(fetched(tmp_path)) == 3


def test_artefacts_are_uploaded_only_once(tmp_path: Path) -> None:
    script = Scripted()
    assert deploy(script, tmp_path) == DONE
    assert script.calls.count("PutObject") == 3
    script.clock.time += 600
    assert deploy(script, tmp_path) == DONE
    assert script.calls.count("PutObject") == 0
    assert len(fetched(tmp_path)) == 2


def test_a_cluster_is_safe_by_its_request(tmp_path: Path) -> None:
    script = Scripted()
    deploy(script, tmp_path, task_count=3)
    request = script.clusters["j-1"].request
    assert request["AutoTerminationPolicy"] == {"IdleTimeout": 900}
    assert request["SecurityConfiguration"] in script.security_configurations
    assert "Ec2KeyName" not in request["Instances"]
    assert not any("SecurityGroup" in name for name in request["Instances"])
    markets = {group["InstanceRole"]: group["Market"] for group in request["Instances"]["InstanceGroups"]}
    assert markets == {"MASTER": "ON_DEMAND", "CORE": "ON_DEMAND", "TASK": "SPOT"}
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert tags["project"] == "parallel-image-classification"
    assert request["LogUri"].startswith("s3://")
    assert "PutPublicAccessBlock" in script.calls
    assert (
        json.dumps(request).count("arn:aws:iam") == 1
    )  # the tag with the caller's ARN, and no role or credentials besides


def test_files_that_are_edited_later_are_uploaded_as_they_were_when_the_plan_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("common", "spark_jobs"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (emr.plan, emr.package):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    made = plan_of.__wrapped__(ClusterPlan)
    for name in ("common/arrays.py", "spark_jobs/gram.py"):
        (tmp_path / name).write_text("edited")
    own = [artefact for artefact in made.artefacts if artefact.what in ("project", "script")]
    assert len(own) == 2
    for artefact in own:
        content = artefact.make(tmp_path / "made").read_bytes()
        assert digest(content) in artefact.key
        assert b"edited" not in content
