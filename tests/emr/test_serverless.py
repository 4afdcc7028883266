"""Deployments on EMR Serverless: every fate of job runs, kills at every call, lost answers, bad roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError, SSLError
from botocore.parsers import ResponseParserError

from common.errors import InputError
from emr.follow import CANCELLED, DONE, FAILED, TIMED_OUT
from emr.settings import PROJECT
from tests.support.emr.cloud import ACCOUNT
from tests.support.emr.deploying import TRACEBACK, RecordingReporter, deploy, fetched
from tests.support.emr.scripted_serverless import CREATING_S, STARTS_S, WORK_S, JobFate, ScriptedServerless
from tests.support.emr.services import OWNER, KilledError

QUICK = 0.02
"""A pace with little to wait for, at which every kind of call is still made."""

LOST = [
    ReadTimeoutError(endpoint_url="https://aws"),
    SSLError(endpoint_url="https://aws", error="cut off"),
    ResponseParserError("half an answer"),
]

pytestmark = pytest.mark.usefixtures("_small_packages")


def only_run(script: ScriptedServerless) -> dict[str, Any]:
    """Return the request of the one job run that there was."""
    (application,) = script.applications.values()
    (run,) = application.runs
    return run.request


def test_a_job_that_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    assert deploy(script, tmp_path, reporter) == DONE
    (run,) = fetched(tmp_path)
    assert capsys.readouterr().out == f"report: {tmp_path}/runs/{run}/report.html\n"
    positions = [
        reporter.text.index(f"job run {state}") for state in ("PENDING", "SCHEDULED", "RUNNING", "SUCCESS")
    ]
    assert positions == sorted(positions)
    assert script.there() == []
    assert "1 driver and 2 executors, workers of 4 vCPUs and 16 GB" in reporter.text
    assert not list((tmp_path / "runs").glob(".emr/*"))


def test_an_application_and_a_job_run_are_safe_by_their_requests(tmp_path: Path) -> None:
    script = ScriptedServerless()
    assert deploy(script, tmp_path, ready_executors=1, subnet="subnet-12ab", architecture="arm64") == DONE
    (application,) = script.applications.values()
    asked = application.request
    assert asked["tags"].items() >= {"project": PROJECT, "deployed-by": OWNER}.items()
    assert asked["maximumCapacity"] == {"cpu": "12 vCPU", "memory": "48 GB", "disk": "60 GB"}
    assert asked["autoStopConfiguration"] == {"enabled": True, "idleTimeoutMinutes": 15}
    assert [ready["workerCount"] for ready in asked["initialCapacity"].values()] == [1, 1]
    assert (asked["architecture"], asked["networkConfiguration"]) == ("ARM64", {"subnetIds": ["subnet-12ab"]})
    run = only_run(script)
    assert run["executionRoleArn"] == f"arn:aws:iam::{ACCOUNT}:role/{PROJECT}-job"
    assert run["executionTimeoutMinutes"] == 250
    assert run["retryPolicy"] == {"maxAttempts": 1}
    words = run["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"].split()
    assert words[words.index("--archives") + 1].endswith("#deps")
    assert "spark.executorEnv.PYTHONPATH=deps" in words
    assert "spark.emr-serverless.driverEnv.PYTHONPATH=deps" in words
    memory = {word.partition("=")[0]: word.partition("=")[2] for word in words if "memory" in word}
    for who in ("driver", "executor"):
        parts = [memory[f"spark.{who}.{part}"].removesuffix("m") for part in ("memory", "memoryOverhead")]
        assert sum(map(int, parts)) == 16 * 1024


def test_a_job_that_failed_says_why(tmp_path: Path) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    script.fate = JobFate("FAILED", "Job failed, please check complete logs", TRACEBACK)
    assert deploy(script, tmp_path, reporter) == FAILED
    assert "the job run failed: Job failed, please check complete logs" in reporter.messages
    assert any(message.endswith("ZeroDivisionError: division by zero") for message in reporter.messages)
    assert (fetched(tmp_path), script.there()) == ([], [])


def test_a_job_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    script.fate = JobFate("")
    assert deploy(script, tmp_path, reporter, timeout_minutes=30) == TIMED_OUT
    assert "no end after 30:00: job run RUNNING" in reporter.messages
    assert script.calls.count("CancelJobRun") == 1
    assert script.there() == []


@pytest.mark.parametrize("at", [1, CREATING_S + 1, STARTS_S + 20])
def test_interrupted(tmp_path: Path, at: float) -> None:
    script = ScriptedServerless()
    script.clock.interrupt_at = at
    assert deploy(script, tmp_path) == CANCELLED
    assert (fetched(tmp_path), script.there()) == ([], [])
    assert all(script.run_state(run) == "CANCELLED" for app in script.applications.values() for run in app.runs)


@pytest.mark.parametrize("at", [CREATING_S + 1, STARTS_S + 20])
def test_what_is_not_listed_yet_is_cancelled_too(tmp_path: Path, at: float) -> None:
    script = ScriptedServerless()
    script.fate, script.clock.interrupt_at, script.listed_after = JobFate(""), at, 10_000
    assert deploy(script, tmp_path) == CANCELLED
    assert script.calls.count("CancelJobRun") == 1
    assert script.there() == []


def test_a_job_run_that_ends_just_before_it_is_cancelled(tmp_path: Path) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    script.clock.interrupt_at = STARTS_S + 20
    list_job_runs = script.list_job_runs

    def late(params: dict[str, Any]) -> dict[str, Any]:
        answer = list_job_runs(params)
        script.clock.time += WORK_S
        return answer

    script.list_job_runs = late  # type: ignore[method-assign]
    assert deploy(script, tmp_path, reporter) == CANCELLED
    assert "cancelling job run 00j1: it has ended by itself" in reporter.messages
    assert script.there() == []


@pytest.mark.parametrize("fate", [JobFate(), JobFate("FAILED", "no", TRACEBACK)], ids=["done", "failed"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_and_run_again(tmp_path: Path, fate: JobFate, before: bool) -> None:
    """There is never a second application or job run, and results are fetched once."""
    undisturbed = ScriptedServerless(QUICK)
    undisturbed.fate = fate
    expected = deploy(undisturbed, tmp_path / "undisturbed")
    n = len(undisturbed.calls)
    assert n > 25
    for at in range(1, n + 1):
        script, folder = ScriptedServerless(QUICK), tmp_path / f"{at}"
        script.fate, script.dies_at, script.dies_before = fate, at, before
        with pytest.raises(KilledError):
            deploy(script, folder)
        operation, script.dies_at = script.calls[-1], None
        script.clock.time += (0, 2, 400)[at % 3]  # between the two attempts, more or less time passes
        reporter = RecordingReporter()
        assert deploy(script, folder, reporter) == expected, (at, operation, reporter.text)
        assert only_run(script)
        assert script.there() == [], (at, operation)
        assert len(fetched(folder)) == (1 if expected == DONE else 0), (at, operation)
        assert not list(folder.glob("runs/.emr/*"))


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_and_interrupted_when_run_again(tmp_path: Path, before: bool) -> None:
    undisturbed = ScriptedServerless(QUICK)
    deploy(undisturbed, tmp_path / "undisturbed")
    for at in range(1, len(undisturbed.calls) + 1):
        script, folder = ScriptedServerless(QUICK), tmp_path / f"{at}"
        script.dies_at, script.dies_before = at, before
        with pytest.raises(KilledError):
            deploy(script, folder)
        script.dies_at, script.clock.interrupt_at = None, 0
        assert deploy(script, folder) in (DONE, CANCELLED)
        assert script.there() == [], at


@pytest.mark.parametrize("lost", LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("operation", ["CreateApplication", "StartJobRun", "GetJobRun", "DeleteApplication"])
def test_a_lost_answer_repeats_nothing(tmp_path: Path, operation: str, lost: Exception) -> None:
    script = ScriptedServerless()
    script.unanswered, script.listed_after = {operation: lost}, 20
    assert deploy(script, tmp_path) == DONE
    assert only_run(script)
    assert script.there() == []


def test_a_request_that_is_repeated_has_the_token_of_the_first(tmp_path: Path) -> None:
    """Killed after StartJobRun, and so early that the job run is not listed yet."""
    script = ScriptedServerless(QUICK)
    listed = script.list_job_runs
    script.list_job_runs = lambda _: {"jobRuns": []}  # type: ignore[method-assign]
    undisturbed = ScriptedServerless(QUICK)
    deploy(undisturbed, tmp_path / "undisturbed")
    script.dies_at = undisturbed.calls.index("StartJobRun") + 1
    with pytest.raises(KilledError):
        deploy(script, tmp_path)
    script.dies_at = None
    follow = script.get_job_run

    def soon_listed(params: dict[str, Any]) -> dict[str, Any]:
        script.list_job_runs = listed  # type: ignore[method-assign]
        return follow(params)

    script.get_job_run = soon_listed  # type: ignore[method-assign]
    assert deploy(script, tmp_path) == DONE
    assert script.calls.count("StartJobRun") == 1
    assert only_run(script)


def test_a_kept_application_serves_again(tmp_path: Path) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    assert deploy(script, tmp_path, reporter, keep=True) == DONE
    assert "application 00f1 is kept" in reporter.messages[-1]
    script.clock.time += 60
    assert deploy(script, tmp_path, keep=True) == DONE
    assert deploy(script, tmp_path, cluster="00f1", job="outer") == DONE
    assert script.there() == ["00f1"]
    assert len(script.applications["00f1"].runs) == len(fetched(tmp_path)) == 3


def test_an_application_with_other_work_is_left_to_it(tmp_path: Path) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    get_job_run = script.get_job_run

    def busy(params: dict[str, Any]) -> dict[str, Any]:
        answer = get_job_run(params)
        (application,) = script.applications.values()
        if answer["jobRun"]["state"] == "RUNNING" and len(application.runs) == 1:
            theirs = {"sparkSubmit": {"entryPoint": "s3://theirs/x.py", "entryPointArguments": []}}
            more = {"name": "theirs", "clientToken": "other", "jobDriver": theirs}
            script.start_job_run({**application.runs[0].request, **more})
        return answer

    script.get_job_run = busy  # type: ignore[method-assign]
    assert deploy(script, tmp_path, reporter) == DONE
    assert "application 00f1 has other work (theirs)" in reporter.messages[-1]
    assert script.there() == ["00f1"]


def test_throttling_only_slows_down(tmp_path: Path) -> None:
    script = ScriptedServerless()
    script.throttled = 9
    assert deploy(script, tmp_path) == DONE
    assert script.throttled == 0


def test_somebody_else_cancels(tmp_path: Path) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    get_job_run = script.get_job_run

    def cancelled(params: dict[str, Any]) -> dict[str, Any]:
        if script.clock.now() - script.clock.began > STARTS_S + WORK_S / 2:
            (application,) = script.applications.values()
            application.runs[0].cancelled = application.runs[0].cancelled or script.clock.now()
        return get_job_run(params)

    script.get_job_run = cancelled  # type: ignore[method-assign]
    assert deploy(script, tmp_path, reporter) == CANCELLED
    assert "the job run was cancelled" in reporter.messages
    assert script.there() == []


def test_a_table_is_written_without_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = ScriptedServerless()
    arguments = "s3://photos/a s3://tables/mine --size 8x8"
    assert deploy(script, tmp_path, job="ingest", arguments=arguments) == DONE
    assert capsys.readouterr().out == "table: s3://tables/mine\n"
    assert script.there() == []


@pytest.mark.parametrize(
    ("code", "document", "message"),
    [
        ("NoSuchEntity", "", "execution_role parallel-image-classification-job: does not exist; docs/how-to"),
        ("", '{"Service": "ec2.amazonaws.com"}', "does not trust emr-serverless.amazonaws.com; docs/how-to"),
    ],
)
def test_a_role_that_cannot_be_used_starts_nothing(tmp_path: Path, code: str, document: str, message: str) -> None:
    script = ScriptedServerless()
    if code:
        script.refused["GetRole"] = (code, "no")
    get_role = script.get_role

    def other(params: dict[str, Any]) -> dict[str, Any]:
        return {"Role": {**get_role(params)["Role"], "AssumeRolePolicyDocument": document}}

    script.get_role = other  # type: ignore[method-assign]
    with pytest.raises(InputError, match=message):
        deploy(script, tmp_path)
    assert not script.applications


def test_flags_that_are_too_long_start_nothing(tmp_path: Path) -> None:
    script = ScriptedServerless()
    arguments = "--data s3://bucket/" + "x" * 11_000
    with pytest.raises(InputError, match=r"flags of up to 11,0\d\d characters"):
        deploy(script, tmp_path, arguments=arguments)
    assert script.bucket_region is None


def test_memory_that_no_worker_has_starts_nothing(tmp_path: Path) -> None:
    script = ScriptedServerless()
    with pytest.raises(InputError, match=r"are 28,672 MiB, and a worker of 16 GB has 16,384; lower them"):
        deploy(script, tmp_path, spark="spark.executor.memory=20g")
    assert script.bucket_region is None


def test_settings_that_do_not_fit_into_a_line_start_nothing(tmp_path: Path) -> None:
    script = ScriptedServerless()
    with pytest.raises(InputError, match=r"spark spark\.app\.name=my job: EMR Serverless takes no blanks"):
        deploy(script, tmp_path, spark="spark.app.name=my job")
    assert script.bucket_region is None


def test_a_refusal_leaves_no_application(tmp_path: Path) -> None:
    script, reporter = ScriptedServerless(), RecordingReporter()
    script.refused["StartJobRun"] = ("AccessDeniedException", "not authorized")
    assert deploy(script, tmp_path, reporter) == 2
    assert "emr/policy.json has the permissions that are needed" in reporter.text
    assert script.there() == []
