"""The command line against moto's server. Jobs end at once here; test_end_to_end.py really runs them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from emr.__main__ import VERBS, main
from emr.settings import PROJECT, TARGETS
from tests.support.emr.cloud import MOTO_RELEASE, REGION, Cloud, cloud, settle
from tests.support.jobs import command, environment
from tests.support.places import ROOT

NOBODY = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}
"""Variables of a user without credentials."""


def emr(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m emr` in this process, which saves the time to start another."""
    out, err = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in [name for name in os.environ if name.startswith(("AWS_", "EMR_"))]:
            patch.delenv(name)
        for name, value in (more or NOBODY).items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        try:
            code = main(words)
        except SystemExit as end:
            code = int(str(end.code))
        finally:
            signal.signal(signal.SIGTERM, before)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def test_a_dry_run_without_credentials_shows_what_would_happen(tmp_path: Path) -> None:
    words = ["DRY_RUN=1", "JOB=outer", "ARGS=--data digits --lambdas '-2:4:7'", "EMR_CORE_COUNT=5"]
    done = command(
        "make",
        "-C",
        ROOT,
        "--no-print-directory",
        "-o",
        ".venv/.ready-emr",
        "emr-deploy",
        *words,
        cwd=tmp_path,
        **NOBODY,
    )
    assert done.returncode == 0, done.stderr
    output = done.stdout
    assert (
        "would run `outer --data=digits --lambdas=-2:4:7` on Amazon EMR (emr-spark-8.0.0, Python 3.11)" in output
    )
    assert "6 machines, 24 vCPUs: 1 m7i.xlarge (primary), 5 m7i.xlarge (core); 6 machine-hours for" in output
    assert "terminated as soon as the results are here" in output
    shown = re.search(r"^emr\.run_job_flow\n(  \{\n.*?\n  \})\n", output, re.MULTILINE | re.DOTALL)
    assert shown
    request = json.loads(shown[1])
    assert request["AutoTerminationPolicy"] == {"IdleTimeout": 900}
    assert request["Steps"][0]["HadoopJarStep"]["Args"][0] == "spark-submit"
    assert "ACCOUNT, YOU and REGION below stand for yours" in done.stderr


def test_a_dry_run_for_serverless_reads_well_without_credentials(tmp_path: Path) -> None:
    words = ["DRY_RUN=1", "TARGET=serverless", "EMR_EXECUTORS=4", "EMR_TIMEOUT_MINUTES=50"]
    make = ["make", "-C", ROOT, "--no-print-directory", "-o", ".venv/.ready-emr", "emr-deploy"]
    done = command(*make, *words, cwd=tmp_path, **NOBODY)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()
    assert first[0].startswith(
        "would run `gram --data=digits` on Amazon EMR Serverless (emr-spark-8.0.0, Python 3.11)"
    )
    assert first[1] == (
        "workers: 1 driver and 4 executors, workers of 4 vCPUs and 16 GB; "
        "at most 20 vCPU-hours and 80 GB-hours for a job"
    )
    assert "the application is deleted as soon as the results are here; it stops after 15" in first[2]
    shown = re.search(
        r"^emr-serverless\.start_job_run\n(  \{\n.*?\n  \})\n", done.stdout, re.MULTILINE | re.DOTALL
    )
    assert shown
    request = json.loads(shown[1])
    assert request["executionRoleArn"] == "arn:aws:iam::ACCOUNT:role/parallel-image-classification-job"
    assert "run_job_flow" not in done.stdout


@pytest.fixture
def _right_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save the time in which a job checks its flags, for tests that are not about flags."""
    monkeypatch.setattr("emr.verbs.check_flags", lambda job, words: None)


@pytest.mark.usefixtures("_right_flags")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_can_be_tried_without_credentials(verb: str, target: str, tmp_path: Path) -> None:
    done = emr(verb, "--dry-run", "--target", target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 50
    assert list(tmp_path.iterdir()) == []


def test_the_environment_can_ask_for_a_dry_run_too(tmp_path: Path) -> None:
    done = emr("terminate", cwd=tmp_path, **NOBODY, DRY_RUN="1")
    assert done.returncode == 0
    assert "terminate_job_flows" in done.stdout


def test_a_pipe_that_is_closed_early_gives_no_traceback(tmp_path: Path) -> None:
    line = f"{sys.executable} -m emr deploy --dry-run | head -1"
    done = command("bash", "-c", line, cwd=tmp_path, **NOBODY)
    assert done.stdout.startswith("would run")
    assert "Traceback" not in done.stderr


def test_terminate_works_whatever_else_is_set(tmp_path: Path) -> None:
    done = emr("terminate", "--dry-run", cwd=tmp_path, **NOBODY, EMR_JOB="none", EMR_CORE_TYPE="none")
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_right_flags")
@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"package"}))
def test_without_credentials_one_line_says_how_to_have_some(verb: str, tmp_path: Path) -> None:
    done = emr(verb, "--region", "eu-west-1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"emr {verb}: no AWS credentials: `aws configure`")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["deploy", "--job", "serial"], "emr deploy: job 'serial': use one of outer, inner"),
        (["deploy", "--lambdas", "1"], "unrecognized arguments: --lambdas 1; --help lists the flags"),
        (["depoly"], "invalid choice: 'depoly'"),
        (["deploy", "--dry-run", "--arguments", "--data folder:none"], "--data folder:none: no files at none"),
        (["deploy", "--profile-that-is-not", "x"], "--help lists the flags"),
        (["deploy", "--arguments", "--dta digits"], "gram.py: unrecognized arguments: --dta digits"),
        (
            ["deploy", "--dry-run", "--job", "predict", "--arguments", ""],
            "predict.py: the following arguments",
        ),
        (["submit", "--arguments", "--lambdas none"], "'none' is neither A:B:N nor a comma list"),
    ],
)
def test_wrong_usage_is_one_line_and_2(words: list[str], message: str, tmp_path: Path) -> None:
    done = emr(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_profile_that_does_not_exist(tmp_path: Path) -> None:
    done = emr("list", cwd=tmp_path, **NOBODY, AWS_PROFILE="nobody")
    assert done.returncode == 2
    assert "The config profile (nobody) could not be found; AWS_PROFILE names one of" in done.stderr


@pytest.fixture
def aws() -> Iterator[Cloud]:
    """A cloud with the default roles."""
    with cloud() as made:
        made.default_roles()
        yield made


def runner(aws: Cloud, code: int = 0, output: str = "") -> Callable[[list[str], Path], tuple[int, str]]:
    """Return a runner that ends at once with this code and output; if the code is 0, it writes a run folder."""

    def run(words: list[str], _: Path) -> tuple[int, str]:
        out = next(word for word in words if word.startswith("--out=")).removeprefix("--out=s3://")
        bucket, _, prefix = out.partition("/")
        for name in ("report.html", "metrics.json", "figures/a.svg"):
            if code == 0:
                aws.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"{}")
        return code, output

    return run


def upload_packages(aws: Cloud, cwd: Path, *prefixes: str) -> None:
    """Upload an object in place of the packages, so that none are made: below the usual prefix, and these."""
    shown = emr("deploy", "--dry-run", cwd=cwd, **aws.environment).stdout
    key = re.search(r'"Key": "(\S+?)/(\S+/deps-\w+\.tar\.gz)"', shown)
    bucket = re.search(r'"Bucket": "(\S+)"', shown)
    assert key
    assert bucket
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=bucket[1], CreateBucketConfiguration={"LocationConstraint": REGION})
    for prefix in (key[1], *prefixes):
        s3.put_object(Bucket=bucket[1], Key=f"{prefix}/{key[2]}", Body=b"packages")


@pytest.mark.slow
@pytest.mark.usefixtures("_right_flags")
def test_every_verb_after_a_deployment(aws: Cloud, tmp_path: Path) -> None:
    upload_packages(aws, tmp_path)
    run = runner(aws, output="it went well")
    with aws.running(run, tmp_path):
        done = emr("deploy", "--keep", cwd=tmp_path, **aws.environment)
        assert done.returncode == 0, done.stderr
        assert "is kept" in done.stderr
        (cluster,) = aws.clusters
        done = emr("submit", "--job", "outer", cwd=tmp_path, **aws.environment)
        assert done.returncode == 0, done.stderr
    (first, second) = sorted(run.name for run in (tmp_path / "runs").glob("[a-z]*"))
    status = emr("status", cwd=tmp_path, **aws.environment).stdout
    assert re.search(rf"{cluster.id}  \w+", status)
    assert status.count("COMPLETED") == 2
    assert "it went well" in emr("logs", cwd=tmp_path, **aws.environment).stdout
    listed = emr("list", cwd=tmp_path, **aws.environment).stdout
    assert f"1 clusters in {REGION}" in listed
    assert re.search(r"/runs/: 6 objects", listed)
    fetched = emr("fetch", "--run", second, "--fetch-to", "elsewhere", cwd=tmp_path, **aws.environment)
    assert fetched.stdout == f"report: {tmp_path}/elsewhere/{second}/report.html\n"
    assert (tmp_path / "elsewhere" / second / "figures" / "a.svg").is_file()
    assert emr("fetch", "--run", "none", cwd=tmp_path, **aws.environment).returncode == 2
    assert emr("cancel", cwd=tmp_path, **aws.environment).stderr.endswith("is already COMPLETED\n")
    done = emr("terminate", cwd=tmp_path, **aws.environment)
    assert done.stdout == f"{cluster.id}: terminating\n"
    assert cluster.state == "TERMINATED"
    assert emr("terminate", cwd=tmp_path, **aws.environment).stdout == "you have no running cluster\n"
    assert first.startswith("gram-digits-")


def test_a_cluster_of_somebody_else_is_not_terminated(aws: Cloud, tmp_path: Path) -> None:
    instances = {"KeepJobFlowAliveWhenNoSteps": True}
    theirs = aws.client("emr").run_job_flow(Name="theirs", Instances=instances)["JobFlowId"]
    done = emr("terminate", "--cluster", theirs, cwd=tmp_path, **aws.environment)
    assert done.returncode == 2
    assert "lacks the tag project=parallel-image-classification, so it is not ours to terminate" in done.stderr
    assert aws.clusters[0].state == "WAITING"
    assert emr("submit", cwd=tmp_path, **aws.environment).returncode == 2
    done = emr("status", "--cluster", "j-NONE", cwd=tmp_path, **aws.environment)
    assert done.returncode == 2
    assert "cluster j-NONE: there is none" in done.stderr


def test_a_step_of_somebody_else_is_not_cancelled(aws: Cloud, tmp_path: Path) -> None:
    steps = [{"Name": "theirs", "HadoopJarStep": {"Jar": "theirs.jar", "Args": ["spark-submit", "x.py"]}}]
    instances = {"KeepJobFlowAliveWhenNoSteps": True}
    theirs = aws.client("emr").run_job_flow(Name="theirs", Instances=instances, Steps=steps)["JobFlowId"]
    done = emr("cancel", "--cluster", theirs, cwd=tmp_path, **aws.environment)
    assert done.returncode == 2
    assert "(theirs): none of this project's, so not ours to cancel" in done.stderr
    assert [step.state for step in aws.clusters[0].steps] == ["RUNNING"]


def test_a_job_that_fails_ends_with_1_and_its_traceback(aws: Cloud, tmp_path: Path) -> None:
    upload_packages(aws, tmp_path)
    run = runner(aws, 1, 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nKeyError: 7\n')
    with aws.running(run, tmp_path):
        done = emr("deploy", cwd=tmp_path, **aws.environment)
    assert done.returncode == 1
    assert "KeyError: 7" in done.stderr
    assert aws.clusters[0].state == "TERMINATED"


@pytest.mark.slow
@pytest.mark.usefixtures("_right_flags")
def test_logs_of_a_step_are_found_where_its_cluster_puts_them(aws: Cloud, tmp_path: Path) -> None:
    """Submit a step with another prefix than its cluster's, and ask for its logs with another bucket as well."""
    upload_packages(aws, tmp_path, "other")
    with aws.running(runner(aws, 1, "gram.py: folder:x: no such folder\n"), tmp_path):
        assert emr("deploy", "--keep", cwd=tmp_path, **aws.environment).returncode == 1
        other = {**aws.environment, "EMR_PREFIX": "other"}
        done = emr("submit", cwd=tmp_path, **other)
    assert done.returncode == 1
    assert "gram.py: folder:x: no such folder" in done.stderr
    (cluster,) = aws.clusters
    step = cluster.steps[-1].id
    done = emr("logs", "--step", step, cwd=tmp_path, **other, EMR_BUCKET="elsewhere-on-s3")
    assert f"==> {PROJECT}/logs/{cluster.id}/steps/{step}/" in done.stdout, done.stderr
    assert "no such folder" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 4), (signal.SIGTERM, 4), (signal.SIGKILL, -9)])
def test_a_process_that_is_stopped_and_run_again(aws: Cloud, tmp_path: Path, number: int, code: int) -> None:
    """Ctrl-C and SIGTERM leave no cluster; after SIGKILL the same command finds it, and follows its step."""
    upload_packages(aws, tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "emr", "deploy"],
        cwd=tmp_path,
        env=environment(**aws.environment),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    settle(lambda: any(cluster.steps for cluster in aws.clusters))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    (cluster,) = aws.clusters
    if code == 4:
        assert cluster.state == "TERMINATED"
        assert [step.state for step in cluster.steps] == ["CANCELLED"]
        return
    assert cluster.state != "TERMINATED"
    with aws.running(runner(aws), tmp_path):
        done = emr("deploy", cwd=tmp_path, **aws.environment)
    assert done.returncode == 0, done.stderr
    assert f"continuing with step {cluster.steps[0].id} on cluster {cluster.id}" in done.stderr
    assert [len(aws.clusters), len(cluster.steps), cluster.state] == [1, 1, "TERMINATED"]


@pytest.mark.usefixtures("_right_flags")
def test_every_verb_after_a_deployment_on_serverless(aws: Cloud, tmp_path: Path) -> None:
    """On moto's application, whose job runs end at once here."""
    upload_packages(aws, tmp_path)
    target = {**aws.environment, "EMR_TARGET": "serverless", "EMR_RELEASE": MOTO_RELEASE}
    with aws.running(runner(aws, output="it went well"), tmp_path):
        done = emr("deploy", "--keep", cwd=tmp_path, **target)
        assert done.returncode == 0, done.stderr
        (application,) = aws.applications
        done = emr("submit", "--job", "outer", cwd=tmp_path, **target)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("[a-z]*"))) == 2
    status = emr("status", "--application", application.id, cwd=tmp_path, **target).stdout
    assert status.startswith(f"{application.id}  STARTED\n")
    assert status.count("SUCCESS") == 2
    assert "it went well" in emr("logs", cwd=tmp_path, **target).stdout
    assert f"1 applications in {REGION}" in emr("list", cwd=tmp_path, **target).stdout
    assert emr("cancel", cwd=tmp_path, **target).stderr.endswith("is already SUCCESS\n")
    aws.client("emr-serverless").create_application(name="theirs", releaseLabel=MOTO_RELEASE, type="SPARK")
    theirs = next(app for app in aws.applications if app.name == "theirs")
    done = emr("terminate", "--application", theirs.id, cwd=tmp_path, **target)
    assert done.returncode == 2
    assert "lacks the tag project=parallel-image-classification, so it is not ours to delete" in done.stderr
    done = emr("terminate", cwd=tmp_path, **target)
    assert done.stdout == f"{application.id}: terminating\n"
    assert (application.state, theirs.state) == ("TERMINATED", "STARTED")
    job_run = aws.client("emr-serverless").list_job_runs(applicationId=application.id)["jobRuns"][0]["id"]
    done = emr("logs", "--application", application.id, "--job-run", job_run, cwd=tmp_path, **target)
    assert "it went well" in done.stdout, done.stderr
    assert emr("terminate", cwd=tmp_path, **target).stdout == "you have no running application\n"
    assert emr("status", "--application", "00none", cwd=tmp_path, **target).returncode == 2
