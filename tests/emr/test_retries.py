"""Deployments that are killed, cut off or refused, and what the same line makes of them afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError, SSLError, UnauthorizedSSOTokenError
from botocore.parsers import ResponseParserError

from common.errors import InputError
from emr.aws import Aws
from emr.follow import CANCELLED, DONE, TIMED_OUT, WRONG
from tests.support.emr.cloud import REGION
from tests.support.emr.deploying import TRACEBACK, deploy, fetched, plan
from tests.support.emr.scripted import Fate, KilledError, Person, Scripted

QUICK = 0.02
"""A pace at which there is little to wait for, and still every kind of call."""

pytestmark = pytest.mark.usefixtures("_small_packages")


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
