"""Deployments that are killed, cut off or refused, and then continued by the same command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ReadTimeoutError, SSLError, UnauthorizedSSOTokenError
from botocore.parsers import ResponseParserError

from common.errors import InputError, RunError
from emr.aws import Aws
from emr.follow import CANCELLED, DONE, TIMED_OUT, WRONG
from tests.support.emr.cloud import REGION
from tests.support.emr.deploying import TRACEBACK, RecordingReporter, deploy, fetched, plan
from tests.support.emr.scripted import Fate, Scripted
from tests.support.emr.services import KilledError

QUICK = 0.02
"""A pace with little to wait for, at which every kind of call is still made."""

pytestmark = pytest.mark.usefixtures("_small_packages")


def deploy_until_credentials_expire(script: Scripted, folder: Path) -> None:
    """Deploy with credentials that expire while the step is followed; they are valid again afterwards."""
    script.refused["DescribeStep"] = ("ExpiredTokenException", "expired")
    with pytest.raises(RunError):
        deploy(script, folder)
    script.refused.clear()


@pytest.mark.parametrize("fate", [Fate(), Fate("FAILED", log=TRACEBACK)], ids=["done", "failed"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_and_run_again(tmp_path: Path, fate: Fate, before: bool) -> None:
    """There is never a second cluster and never a lost one, and the results are fetched once."""
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
        # between the two attempts, more or less time passes
        script.clock.time += (0, 2, 400)[at % 3]
        reporter = RecordingReporter()
        assert deploy(script, folder, reporter) == expected, (at, operation, reporter.text)
        assert len(script.clusters) == 1, (at, operation)
        assert script.running() == [], (at, operation)
        assert len(next(iter(script.clusters.values())).steps) == 1, (at, operation)
        assert len(fetched(folder)) == (1 if expected == DONE else 0), (at, operation)
        assert not list(folder.glob("runs/.emr/*"))


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_and_interrupted_when_run_again(tmp_path: Path, before: bool) -> None:
    """A user who gives up after a kill has nothing left running either."""
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


@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
def test_a_lost_answer_does_not_start_a_second_cluster(tmp_path: Path, lost: Exception) -> None:
    script = Scripted()
    script.unanswered, script.listed_after = {"RunJobFlow": lost}, 20
    assert deploy(script, tmp_path) == DONE
    assert script.calls.count("RunJobFlow") == len(script.clusters) == 1
    assert not script.running()


@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
def test_a_lost_answer_does_not_add_a_second_step(tmp_path: Path, lost: Exception) -> None:
    script = Scripted()
    cluster = script.foreign_cluster()
    for n in (1, 2):  # the second time, there is an equal step, which belongs to the first run
        script.unanswered = {"AddJobFlowSteps": lost}
        assert deploy(script, tmp_path, cluster=cluster) == DONE
        assert len(script.clusters[cluster].steps) == n


@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
def test_a_lost_answer_does_not_stop_following(tmp_path: Path, lost: Exception) -> None:
    script = Scripted()
    script.unanswered = {"DescribeStep": lost}
    assert deploy(script, tmp_path) == DONE


def test_a_request_that_must_not_be_repeated_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_refused_cluster_leaves_nothing_behind(tmp_path: Path) -> None:
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
    with pytest.raises(RunError, match="cluster j-1 goes on, and the same command will follow it"):
        deploy(script, tmp_path)
    script.refused.clear()
    assert deploy(script, tmp_path) == DONE
    assert len(script.clusters) == 1
    assert not script.running()


def test_a_network_that_fails_for_a_moment_ends_no_job(tmp_path: Path) -> None:
    script = Scripted()
    deploy_until_credentials_expire(script, tmp_path)
    script.unanswered["DescribeCluster"] = LOST[1]
    with pytest.raises(RunError, match="cluster j-1 goes on, and the same command will follow it"):
        deploy(script, tmp_path)
    assert script.running() == ["j-1"]
    assert deploy(script, tmp_path) == DONE


def test_a_step_of_somebody_else_is_not_cancelled(tmp_path: Path) -> None:
    """An equal step of another user runs on a shared cluster, and uploads to the bucket are refused."""
    script = Scripted()
    cluster = script.foreign_cluster()
    script.fate = Fate("")
    script.add_steps(script.clusters[cluster], [plan().step("theirs")])
    script.refused["PutObject"] = ("AccessDenied", "no")
    reporter = RecordingReporter()
    assert deploy(script, tmp_path, reporter, cluster) == WRONG
    assert "emr/policy.json" in reporter.text
    assert "CancelSteps" not in script.calls
    theirs = script.describe_step({"ClusterId": cluster, "StepId": f"s-{cluster}-1"})["Step"]
    assert theirs["Status"]["State"] == "PENDING"


def test_an_archive_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emr.plan.dependencies_archive", full_disk)
    with pytest.raises(RunError, match=r"packages: cannot be packed \(.*No space left on device\)"):
        deploy(Scripted(), tmp_path)
    script, reporter = Scripted(), RecordingReporter()
    cluster = script.foreign_cluster()
    assert deploy(script, tmp_path, reporter, cluster) == WRONG
    assert "packages: cannot be packed" in reporter.text
    assert script.running() == [cluster]


def test_a_job_that_was_done_while_nobody_looked_is_not_done_again(tmp_path: Path) -> None:
    """The process is killed after it requested the cluster; the job finishes, and the cluster ends itself."""
    script = Scripted()
    undisturbed = Scripted()
    deploy(undisturbed, tmp_path / "undisturbed")
    script.dies_at = undisturbed.calls.index("RunJobFlow") + 1
    with pytest.raises(KilledError):
        deploy(script, tmp_path / "killed")
    script.dies_at = None
    script.clock.time += 3600
    script.clusters["j-1"].terminated = script.clock.time - 600
    assert deploy(script, tmp_path / "killed") == DONE
    assert len(script.clusters) == len(fetched(tmp_path / "killed")) == 1


def test_a_cluster_that_emr_has_forgotten_does_not_stop_a_deployment(tmp_path: Path) -> None:
    script = Scripted()
    deploy_until_credentials_expire(script, tmp_path)
    script.clusters.clear()
    script.objects = {key: entry for key, entry in script.objects.items() if "/runs/" not in key}
    script.clock.time += 90 * 24 * 3600
    assert deploy(script, tmp_path) == DONE


def test_the_deadline_outlives_the_process_that_set_it(tmp_path: Path) -> None:
    script = Scripted()
    script.fate = Fate("")
    deploy_until_credentials_expire(script, tmp_path)
    script.clock.time += 24 * 3600
    assert deploy(script, tmp_path) == TIMED_OUT
    assert not script.running()


def test_a_reason_is_shown_even_if_cleaning_up_fails(tmp_path: Path) -> None:
    script, reporter = Scripted(), RecordingReporter()
    script.fate = Fate("")
    script.refused["CancelSteps"] = script.refused["TerminateJobFlows"] = ("AccessDeniedException", "no")
    assert deploy(script, tmp_path, reporter, timeout_minutes=30) == TIMED_OUT
    assert "no end after 30:00: cluster RUNNING, step RUNNING" in reporter.messages
    assert "`make emr-list` shows what runs, and the same command goes on from here" in reporter.text
    script.refused.clear()
    assert deploy(script, tmp_path, timeout_minutes=30) == TIMED_OUT
    assert not script.running()
