"""Run folders, moments and tables at addresses, on S3 as moto has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.atomic import write_json
from common.data.shipped import seen_by_workers
from common.errors import InputError
from common.ridge.moments_file import SavedMoments
from common.run.flag_types import run_folder
from common.run.folder import RunFolder
from spark_jobs import serial
from tests.support.emr.cloud import REGION, Cloud, cloud
from tests.support.moments import BASIS, moments

BUCKET = "some-bucket"


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    with cloud() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield server


def keys(aws: Cloud, prefix: str) -> list[str]:
    """Return the keys of files, without markers of folders, in the order in which they were written."""
    found = aws.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    files = [entry for entry in found if not entry["Key"].endswith("/")]
    return [entry["Key"].removeprefix(prefix) for entry in sorted(files, key=lambda entry: entry["LastModified"])]


def test_a_run_folder_is_uploaded_whole(aws: Cloud) -> None:
    folder = RunFolder(run_folder(f"s3://{BUCKET}/runs/a/"), "job")
    with folder.written() as staging:
        (staging / "figures").mkdir()
        (staging / "figures" / "z.svg").write_text("z")
        write_json(staging / "metrics.json", {})
        (staging / "report.html").write_text("report")
        assert keys(aws, "runs/a/") == []
    assert sorted(keys(aws, "runs/a/")) == ["figures/z.svg", "metrics.json", "report.html"]
    assert folder.file("report.html") == f"s3://{BUCKET}/runs/a/report.html"
    with pytest.raises(InputError, match=f"--out s3://{BUCKET}/runs/a: holds something already; name another"):
        RunFolder(run_folder(f"s3://{BUCKET}/runs/a"), "job")


def test_a_run_that_fails_leaves_nothing(aws: Cloud) -> None:
    folder = RunFolder(f"s3://{BUCKET}/runs/b", "job")
    there = []

    def run() -> None:
        with folder.written() as staging:
            folder.shared(staging).write("predictions/0.parquet", b"what a worker wrote")
            there.extend(keys(aws, "runs/b/"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert there == ["predictions/0.parquet"]
    assert keys(aws, "runs/b/") == []


@pytest.mark.usefixtures("aws")
def test_a_job_that_fills_its_folder_piece_by_piece_needs_a_local_one() -> None:
    with pytest.raises(InputError, match="this job writes to a folder of this machine; name one"):
        _ = RunFolder(f"s3://{BUCKET}/runs/c", "job").path


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("address", ["s3://no-such-bucket/runs/x", "gopher://somewhere/x"])
def test_a_location_that_cannot_be_reached_is_one_line(address: str) -> None:
    with pytest.raises(InputError, match=r"\S+: cannot be reached \(.+\)"):
        RunFolder(address, "job")


def test_a_job_writes_to_an_address(aws: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert serial.main(["--quiet", "--out", f"s3://{BUCKET}/runs/serial"]) == 0
    assert capsys.readouterr().out == f"report: s3://{BUCKET}/runs/serial/report.html\n"
    assert {"metrics.json", "model.npz", "model.json", "report.html"} <= set(keys(aws, "runs/serial/"))


@pytest.mark.usefixtures("aws")
def test_moments_at_an_address_equal_those_in_a_file(tmp_path: Path) -> None:
    before = SavedMoments(BASIS, moments(60), frozenset({"a"}))
    before.save(f"s3://{BUCKET}/moments/a.npz")
    before.save(tmp_path / "a.npz")
    there, here = SavedMoments.load(f"s3://{BUCKET}/moments/a.npz"), SavedMoments.load(tmp_path / "a.npz")
    assert there.basis == here.basis == before.basis
    for fold, expected in here.moments.items():
        assert np.array_equal(there.moments[fold].gram, expected.gram)
    with pytest.raises(InputError, match=r"no such file; gram\.py --save-moments"):
        SavedMoments.load(f"s3://{BUCKET}/moments/none.npz")


def test_shipped_files_are_found_below_the_working_directory_of_each_process() -> None:
    assert seen_by_workers(Path("shipped-photos/ash")) == Path("shipped-photos/ash")
    assert seen_by_workers(Path("photos/shipped-ash")) == Path("photos/shipped-ash").absolute()
    assert seen_by_workers(Path("~/photos")).is_absolute()
