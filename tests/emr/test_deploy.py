"""Deployments under every fate, by a clock of their own (see scripted.py)."""

from __future__ import annotations

import argparse
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError, SSLError, UnauthorizedSSOTokenError
from botocore.parsers import ResponseParserError

from common.errors import InputError
from emr.aws import Aws
from emr.deploy import Deployment
from emr.follow import CANCELLED, DONE, FAILED, TIMED_OUT, WRONG
from emr.plan import Plan
from emr.settings import load_settings, settings_flags
from tests.emr.cloud import ACCOUNT, REGION
from tests.emr.scripted import OWNER, RUNNING_S, WORK_S, Fate, KilledError, Person, Scripted

QUICK = 0.02
"""A pace at which there is little to wait for, and still every kind of call."""
TRACEBACK = """\
gram.py: a task failed on a worker
Traceback (most recent call last):
  File "worker.py", line 1, in <module>
    1 / 0
ZeroDivisionError: division by zero
"""


pytestmark = pytest.mark.usefixtures("_small_packages")


@cache
def plan(**more: Any) -> Plan:
    """A plan whose results come below where one is."""
    parser = argparse.ArgumentParser()
    settings_flags(parser)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in more.items() if value is not True]
    words += [f"--{name}" for name, value in more.items() if value is True]
    settings = load_settings(parser.parse_args(words), {})
    return Plan.of(settings, REGION, ACCOUNT, OWNER, Path("data"), Path("packages"))


def deploy(script: Scripted, folder: Path, person: Person | None = None, cluster: str = "", **more: Any) -> int:
    """As a process of its own would, in a folder."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    return Deployment(script.aws(), script.clock, plan(**more), person or Person(), cluster).run()


def fetched(folder: Path) -> list[str]:
    return sorted(own.name for own in (folder / "runs").glob("*") if own.name[0] != ".")


@pytest.fixture(params=["ours", "theirs"])
def owned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "ours")


def run_under(fate: Fate, owned: bool, folder: Path, **more: Any) -> tuple[int, Person, Scripted]:
    """Deploy on a cluster of our own, or submit to one that is not; afterwards ours is gone and theirs is not."""
    script, person = Scripted(), Person()
    interrupt_at = more.pop("interrupt_at", None)
    cluster = "" if owned else script.foreign_cluster()
    script.fate, script.clock.interrupt_at = fate, interrupt_at
    code = deploy(script, folder, person, cluster, **more)
    assert len(script.clusters) == 1
    assert ("TerminateJobFlows" in script.calls) <= owned
    if owned:
        assert not script.running()
    elif fate.cluster is None:
        assert script.running() == [cluster]
    assert not list((folder / "runs").glob(".emr/*"))  # it has come to its end
    return code, person, script


def test_a_job_that_is_done(tmp_path: Path, owned: bool, capsys: pytest.CaptureFixture[str]) -> None:
    code, person, _ = run_under(Fate(), owned, tmp_path)
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
    places = [person.text.index(f"cluster {state}") for state in states]
    assert places == sorted(places)


def test_being_told_that_one_asks_too_often_only_slows_down(tmp_path: Path, owned: bool) -> None:
    script = Scripted()
    cluster = "" if owned else script.foreign_cluster()
    script.throttled = 9
    assert deploy(script, tmp_path, cluster=cluster) == DONE
    assert script.throttled == 0


@pytest.mark.parametrize("name", ["stdout.gz", "stdout.txt.gz", "stdout"])
def test_a_job_that_failed_says_why(tmp_path: Path, owned: bool, name: str) -> None:
    details = {"Reason": "Unknown Error.", "Message": "Exit code 1", "LogFile": "s3://b/stderr.gz"}
    fate = Fate("FAILED", details, log=TRACEBACK, log_name=name)
    code, person, _ = run_under(fate, owned, tmp_path)
    assert code == FAILED
    assert "the step failed: Unknown Error.: Exit code 1 (log: s3://b/stderr.gz)" in person.told
    assert person.told[-2 if owned else -1].endswith("ZeroDivisionError: division by zero")
    assert fetched(tmp_path) == []


def test_a_job_that_failed_without_a_word(tmp_path: Path, owned: bool) -> None:
    code, person, script = run_under(Fate("FAILED"), owned, tmp_path)
    assert code == FAILED
    assert "the step failed: Amazon EMR gives no reason" in person.told
    assert "no traceback is in the logs so far: `make emr-logs`, or s3://" in person.text
    assert script.clock.now() - script.clock.began < RUNNING_S + WORK_S + 600


def test_a_cluster_that_does_not_start(tmp_path: Path) -> None:
    died = (
        "BOOTSTRAP_FAILURE",
        "On the master instance (i-1), bootstrap action 1 returned a non-zero return code",
    )
    code, person, _ = run_under(Fate(cluster=died, dies_after=100), True, tmp_path)
    assert code == FAILED
    assert (
        "the cluster failed before the job could run: TERMINATING: BOOTSTRAP_FAILURE: On the master" in person.text
    )


def test_a_cluster_that_is_lost(tmp_path: Path, owned: bool) -> None:
    code, person, _ = run_under(Fate(cluster=("INSTANCE_FAILURE", "All slaves were lost")), owned, tmp_path)
    assert code == FAILED
    assert (
        "the cluster was lost while the step was INTERRUPTED: TERMINATING: INSTANCE_FAILURE: All sl" in person.text
    )


def test_a_job_that_takes_too_long(tmp_path: Path, owned: bool) -> None:
    code, person, script = run_under(Fate(""), owned, tmp_path, timeout_minutes=30)
    assert code == TIMED_OUT
    assert "no end after 30:00: cluster RUNNING, step RUNNING" in person.told
    assert "CancelSteps" in script.calls
    assert 1800 <= script.clock.now() - script.clock.began < 1900


@pytest.mark.parametrize("at", [5, RUNNING_S + 30])
def test_interrupted(tmp_path: Path, owned: bool, at: float) -> None:
    code, person, script = run_under(Fate(), owned, tmp_path, interrupt_at=at)
    assert code == CANCELLED
    assert "interrupted" in person.told
    assert script.calls.count("CancelSteps") == 1
    assert fetched(tmp_path) == []
    if not owned:  # cancelling has ended the step's own process, and YARN's application goes on
        kill = script.clusters["j-1"].steps[-1].config
        assert kill["Name"].startswith("kill gram-digits-")
        assert kill["Name"].removeprefix("kill ") in kill["HadoopJarStep"]["Args"][-1]


def test_a_person_may_think_again(tmp_path: Path) -> None:
    script, person = Scripted(), Person(stops=False)
    script.clock.interrupt_at = RUNNING_S
    assert deploy(script, tmp_path, person) == DONE
    assert "CancelSteps" not in script.calls


def test_somebody_else_cancels(tmp_path: Path, owned: bool) -> None:
    script, person = Scripted(), Person()
    cluster = "" if owned else script.foreign_cluster()
    ask = script.describe_step

    def cancelled(params: dict[str, Any]) -> dict[str, Any]:
        if script.clock.now() - script.clock.began > RUNNING_S + 10:
            script.cancel_steps({"ClusterId": params["ClusterId"], "StepIds": [params["StepId"]]})
        return ask(params)

    script.describe_step = cancelled  # type: ignore[method-assign]
    assert deploy(script, tmp_path, person, cluster) == CANCELLED
    assert "the step was cancelled" in person.told
    assert script.running() == ([] if owned else [cluster])


def test_somebody_else_terminates_the_cluster(tmp_path: Path) -> None:
    script, person = Scripted(), Person()
    ask = script.describe_step

    def gone(params: dict[str, Any]) -> dict[str, Any]:
        if script.clock.now() - script.clock.began > RUNNING_S + 10:
            cluster = script.clusters[params["ClusterId"]]
            cluster.terminated = cluster.terminated or script.clock.now()
        return ask(params)

    script.describe_step = gone  # type: ignore[method-assign]
    assert deploy(script, tmp_path, person) == CANCELLED
    assert "USER_REQUEST: Terminated by user request" in person.text


@pytest.mark.parametrize("fate", [Fate(), Fate("FAILED", log=TRACEBACK)], ids=["done", "failed"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_and_run_again(tmp_path: Path, fate: Fate, before: bool) -> None:
    """Never a second cluster, never a lost one, and the results once."""
    undisturbed = Scripted(QUICK)
    undisturbed.fate = fate
    expected = deploy(undisturbed, tmp_path / "undisturbed")
    n = len(undisturbed.calls)
    assert n > 30
    for at in range(1, n + 1):
        script, folder = Scripted(QUICK), tmp_path / f"{at}"
        script.fate, script.dies_at, script.dies_before = fate, at, before
        with pytest.raises(KilledError):
            deploy(script, folder)
        operation, script.dies_at = script.calls[-1], None
        # while nobody looks, time passes, or does not
        script.clock.time += (0, 2, 400)[at % 3]
        again = Person()
        assert deploy(script, folder, again) == expected, (at, operation, again.text)
        assert len(script.clusters) == 1, (at, operation)
        assert script.running() == [], (at, operation)
        assert len(next(iter(script.clusters.values())).steps) == 1, (at, operation)
        assert len(fetched(folder)) == (1 if expected == DONE else 0), (at, operation)
        assert not list(folder.glob("runs/.emr/*"))


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_and_interrupted_when_run_again(tmp_path: Path, before: bool) -> None:
    """Whoever gives up after a kill has nothing left running either."""
    undisturbed = Scripted(QUICK)
    deploy(undisturbed, tmp_path / "undisturbed")
    for at in range(1, len(undisturbed.calls) + 1):
        script, folder = Scripted(QUICK), tmp_path / f"{at}"
        script.dies_at, script.dies_before = at, before
        with pytest.raises(KilledError):
            deploy(script, folder)
        script.dies_at, script.clock.interrupt_at = None, 0
        code = deploy(script, folder)
        assert code in (DONE, CANCELLED)
        assert script.running() == [], at


LOST = [
    ReadTimeoutError(endpoint_url="https://aws"),
    SSLError(endpoint_url="https://aws", error="cut off"),
    ResponseParserError("half an answer"),
]


@pytest.mark.parametrize("lost", LOST, ids=lambda own: type(own).__name__)
def test_an_answer_that_is_lost_does_not_start_a_second_cluster(tmp_path: Path, lost: Exception) -> None:
    script = Scripted()
    script.unanswered, script.listed_after = {"RunJobFlow": lost}, 20
    assert deploy(script, tmp_path) == DONE
    assert script.calls.count("RunJobFlow") == len(script.clusters) == 1
    assert not script.running()


@pytest.mark.parametrize("lost", LOST, ids=lambda own: type(own).__name__)
def test_an_answer_that_is_lost_does_not_add_a_second_step(tmp_path: Path, lost: Exception) -> None:
    script = Scripted()
    cluster = script.foreign_cluster()
    for n in (1, 2):  # the second time there is a step with the same work, which is another's
        script.unanswered = {"AddJobFlowSteps": lost}
        assert deploy(script, tmp_path, cluster=cluster) == DONE
        assert len(script.clusters[cluster].steps) == n


@pytest.mark.parametrize("lost", LOST, ids=lambda own: type(own).__name__)
def test_an_answer_that_is_lost_does_not_end_the_following(tmp_path: Path, lost: Exception) -> None:
    script = Scripted()
    script.unanswered = {"DescribeStep": lost}
    assert deploy(script, tmp_path) == DONE


def test_what_must_not_be_asked_twice_is_asked_once_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    sent = []

    def fail(request: object, **_: object) -> AWSResponse:
        sent.append(request)
        raise ReadTimeoutError(endpoint_url="https://aws")

    client = Aws(REGION).emr_once
    client.meta.events.register("before-send", fail)
    with pytest.raises(ReadTimeoutError):
        client.run_job_flow(**plan().cluster("run"))
    assert len(sent) == 1


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    script = Scripted()
    script.refused["RunJobFlow"] = ("ValidationException", "Subnet is required")
    with pytest.raises(InputError, match="start a cluster: ValidationException: Subnet is required"):
        deploy(script, tmp_path)
    assert not script.clusters
    assert not list(tmp_path.glob("runs/.emr/*"))


@pytest.mark.parametrize(
    "expired", [("ExpiredTokenException", "The security token is expired"), UnauthorizedSSOTokenError()], ids=str
)
def test_credentials_that_expire_leave_the_job_to_its_work(tmp_path: Path, expired: Any) -> None:
    script = Scripted()
    if isinstance(expired, tuple):
        script.refused["DescribeStep"] = expired
    else:
        script.unanswered["DescribeStep"] = expired
    with pytest.raises(InputError, match="cluster j-1 goes on, and the same line will follow it"):
        deploy(script, tmp_path)
    script.refused.clear()
    assert deploy(script, tmp_path) == DONE
    assert len(script.clusters) == 1
    assert not script.running()


def test_a_network_that_fails_for_a_moment_ends_no_job(tmp_path: Path) -> None:
    script = Scripted()
    script.refused["DescribeStep"] = ("ExpiredTokenException", "expired")
    with pytest.raises(InputError):
        deploy(script, tmp_path)
    script.refused.clear()
    script.unanswered["DescribeCluster"] = LOST[1]
    with pytest.raises(InputError, match="cluster j-1 goes on, and the same line will follow it"):
        deploy(script, tmp_path)
    assert script.running() == ["j-1"]
    assert deploy(script, tmp_path) == DONE


def test_a_step_of_somebody_else_is_not_cancelled(tmp_path: Path) -> None:
    """The same work on a cluster that is shared, and a bucket that is not ours."""
    script = Scripted()
    cluster = script.foreign_cluster()
    script.fate = Fate("")
    script._add(script.clusters[cluster], [plan().step("theirs")])
    script.refused["PutObject"] = ("AccessDenied", "no")
    person = Person()
    assert deploy(script, tmp_path, person, cluster) == WRONG
    assert "emr/policy.json" in person.text
    assert "CancelSteps" not in script.calls
    theirs = script.describe_step({"ClusterId": cluster, "StepId": f"s-{cluster}-1"})["Step"]
    assert theirs["Status"]["State"] == "PENDING"


def test_a_job_that_was_done_while_nobody_looked_is_not_done_again(tmp_path: Path) -> None:
    """Killed once the cluster was asked for; the job is done, and its cluster has ended itself."""
    script = Scripted()
    calls = Scripted()
    deploy(calls, tmp_path / "undisturbed")
    script.dies_at = calls.calls.index("RunJobFlow") + 1
    with pytest.raises(KilledError):
        deploy(script, tmp_path / "killed")
    script.dies_at = None
    script.clock.time += 3600
    script.clusters["j-1"].terminated = script.clock.time - 600
    assert deploy(script, tmp_path / "killed") == DONE
    assert len(script.clusters) == len(fetched(tmp_path / "killed")) == 1


def test_a_cluster_that_is_forgotten_does_not_stop_anybody(tmp_path: Path) -> None:
    script = Scripted()
    script.refused["DescribeStep"] = ("ExpiredTokenException", "expired")
    with pytest.raises(InputError):
        deploy(script, tmp_path)
    script.refused.clear()
    script.clusters.clear()
    script.objects = {key: own for key, own in script.objects.items() if "/runs/" not in key}
    script.clock.time += 90 * 24 * 3600
    assert deploy(script, tmp_path) == DONE


def test_the_deadline_outlives_the_process_that_set_it(tmp_path: Path) -> None:
    script = Scripted()
    script.fate = Fate("")
    script.refused["DescribeStep"] = ("ExpiredTokenException", "expired")
    with pytest.raises(InputError):
        deploy(script, tmp_path)
    script.refused.clear()
    script.clock.time += 24 * 3600
    assert deploy(script, tmp_path) == TIMED_OUT
    assert not script.running()


def test_a_reason_is_told_even_if_the_rest_fails(tmp_path: Path) -> None:
    script, person = Scripted(), Person()
    script.fate = Fate("")
    script.refused["CancelSteps"] = script.refused["TerminateJobFlows"] = ("AccessDeniedException", "no")
    assert deploy(script, tmp_path, person, timeout_minutes=30) == TIMED_OUT
    assert "no end after 30:00: cluster RUNNING, step RUNNING" in person.told
    assert "`make emr-list` shows what runs, and the same line goes on from here" in person.text
    script.refused.clear()
    assert deploy(script, tmp_path, timeout_minutes=30) == TIMED_OUT
    assert not script.running()


def test_permission_that_is_lacking_leaves_no_cluster(tmp_path: Path) -> None:
    script, person = Scripted(), Person()
    script.refused["DescribeStep"] = ("AccessDeniedException", "not authorized")
    assert deploy(script, tmp_path, person) == 2
    assert "emr/policy.json has the permissions that are needed" in person.text
    assert not script.running()


def test_a_cluster_with_other_work_is_left_to_it(tmp_path: Path) -> None:
    script, person = Scripted(), Person()
    ask = script.describe_step

    def busy(params: dict[str, Any]) -> dict[str, Any]:
        cluster = script.clusters["j-1"]
        if len(cluster.steps) == 1:
            script._add(cluster, [{"Name": "outer 1", "HadoopJarStep": {"Args": []}}])
        return ask(params)

    script.describe_step = busy  # type: ignore[method-assign]
    assert deploy(script, tmp_path, person) == DONE
    assert "cluster j-1 has other work (outer 1)" in person.told[-1]
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


def test_what_is_there_already_is_not_uploaded_again(tmp_path: Path) -> None:
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
    markets = {own["InstanceRole"]: own["Market"] for own in request["Instances"]["InstanceGroups"]}
    assert markets == {"MASTER": "ON_DEMAND", "CORE": "ON_DEMAND", "TASK": "SPOT"}
    tags = {own["Key"]: own["Value"] for own in request["Tags"]}
    assert tags["project"] == "parallel-image-classification"
    assert request["LogUri"].startswith("s3://")
    assert "PutPublicAccessBlock" in script.calls
    assert json.dumps(request).count("arn:aws:iam") == 1  # who deployed it, and nothing of what they hold
