"""Jobs whose images, tables, moments, runs and predictions lie on HDFS or S3, on YARN and on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hdfs_native import Client

from common.data.sources import open_table
from common.data.storage import Storage
from common.errors import InputError
from common.ridge.moments_file import SavedMoments
from spark_jobs import serial
from tests.support.emr.cloud import settle
from tests.support.hadoop.jars import NEEDS, has_maven
from tests.support.hadoop.servers import Servers
from tests.support.hadoop.spark import spark_on_yarn
from tests.support.images import write_images
from tests.support.jobs import agreed, command, metrics_of, run_main
from tests.support.killed import kill_ingest, write_bitmaps
from tests.support.places import ROOT, SEVERAL
from tests.support.s3 import BUCKET, S3Server

pytestmark = [pytest.mark.spark, pytest.mark.skipif(not has_maven(), reason=NEEDS)]

SIZE = ("--size", "8x8")
LAMBDAS = ("--lambdas", "1,10,100")
SETTINGS = {
    "spark_executor_memory": "512m",
    "spark_executor_instances": "2",
    # with the packages that workers need, at the same path on every node
    "spark_pyspark_python": sys.executable,
}
PAGE = ROOT / "docs" / "how-to" / "spark-cluster.md"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in three folders, a damaged one, and one whose name holds a space and an accent."""
    folder = write_images(tmp_path_factory.mktemp("photographs") / "images")
    (folder / "ash" / "damaged.png").write_bytes(b"no image")
    shutil.copy(folder / "ash" / "00.png", folder / "ash" / "été 1.png")
    return folder


@pytest.fixture(scope="module")
def local_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of serial.py on a table of the same images on this machine."""
    folder = tmp_path_factory.mktemp("expected")
    done = command(
        "spark-submit", SEVERAL, jobs(["ingest", f"{photographs}/*/*", str(folder / "table"), *SIZE]), cwd=folder
    )
    assert done.returncode == 0, done.stderr
    run_main(serial.main, folder / "run", "--data", f"parquet:{folder / 'table'}", *LAMBDAS)
    return folder / "run"


def jobs(*lines: Sequence[str]) -> str:
    return json.dumps(lines)


def upload(hdfs: str, folder: Path, to: str) -> None:
    """Upload all files below a folder, many at a time, because each waits long for HDFS."""
    client = Client(hdfs)

    def write(path: Path) -> None:
        with client.create(f"{to}/{path.relative_to(folder)}") as file:
            file.write(path.read_bytes())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, [path for path in folder.rglob("*") if path.is_file()]))


def read_json(address: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Storage.at(address).read(name))
    return found


def test_images_table_moments_and_runs_on_hdfs_by_executors_on_yarn(
    servers: Servers, photographs: Path, local_run: Path, tmp_path: Path
) -> None:
    """First several jobs in one application, then the lines of the cluster page as they are typed."""
    hdfs, on_yarn = servers.yarn.hdfs, submitting(servers, tmp_path)
    upload(hdfs, photographs, "/photos")
    table = ("--data", "parquet:hdfs:///tables/mine", *LAMBDAS)
    lines = [
        ["ingest", "hdfs:///photos/*/*", "hdfs:///tables/mine", *SIZE],
        ["gram", *table, "--save-moments", f"{hdfs}/moments.npz", "--out", f"{hdfs}/runs/gram"],
        ["outer", *table, "--out", f"{hdfs}/runs/outer"],
    ]
    words = ("--master", "yarn", "--py-files", "dist/project.zip", SEVERAL, jobs(*lines))
    done = command("spark-submit", *words, cwd=tmp_path, timeout=400, **on_yarn)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = metrics_of(local_run)
    for run in ("gram", "outer"):
        agreed(read_json(f"{hdfs}/runs/{run}", "metrics.json"), expected)
    assert read_json(f"{hdfs}/tables/mine", "dataset.json")["quarantine"]
    saved = SavedMoments.load(f"{hdfs}/moments.npz")
    images = expected["images"]
    assert sum(moments.n for moments in saved.moments.values()) == images["train"] + images["validation"]

    for line in (line for line in PAGE.read_text().splitlines() if line.startswith("spark-submit --master yarn")):
        done = command(*line.split(), *LAMBDAS, cwd=tmp_path, timeout=400, **on_yarn)
        assert done.returncode == 0, done.stderr[-3000:]
    (here,) = (tmp_path / "runs").iterdir()
    agreed(metrics_of(here), expected)
    agreed(read_json(f"{hdfs}/runs/mine", "metrics.json"), expected)


def submitting(servers: Servers, folder: Path) -> dict[str, str]:
    """Make a folder like a checkout after `make zip`, and return the variables for commands there."""
    (folder / "spark_jobs").symlink_to(ROOT / "spark_jobs")
    (folder / "dist").mkdir()
    assert command("python", "-m", "emr.package", folder / "dist" / "project.zip", cwd=ROOT).returncode == 0
    (folder / "conf").mkdir()
    shutil.copytree(ROOT / "spark_jobs" / "conf", folder / "conf", dirs_exist_ok=True)
    return spark_on_yarn(servers.yarn, folder / "conf", **SETTINGS)


def test_images_table_moments_and_predictions_on_s3(
    s3: S3Server, photographs: Path, local_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3:// and s3a:// are the same place; a second ingest reads what is new; moments are added."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    at, also = (f"{scheme}://{BUCKET}/jobs" for scheme in ("s3", "s3a"))
    table = ("--data", f"parquet:{also}/table", *LAMBDAS)
    s3.upload(photographs / "cedar", "jobs/photos/cedar")
    s3.upload(photographs / "beech", "jobs/photos/beech")
    lines = [
        ["ingest", f"{at}/photos/*/*", f"{at}/table", *SIZE, "--classes", classes(tmp_path)],
        ["gram", *table, "--save-moments", f"{at}/few.npz", "--out", f"{at}/few"],
    ]
    done = command("spark-submit", SEVERAL, jobs(*lines), cwd=tmp_path, **s3.environment)
    assert done.returncode == 0, done.stderr
    s3.upload(photographs / "ash", "jobs/photos/ash")
    lines = [
        ["ingest", f"{also}/photos/*/*", f"{also}/table", *SIZE],
        ["gram", *table, "--add-moments", f"{also}/few.npz", "--out", f"{also}/run"],
        ["predict", "--model", str(local_run), "--data", f"{at}/photos/*/*", "--out", f"{at}/predicted"],
    ]
    done = command("spark-submit", SEVERAL, jobs(*lines), cwd=tmp_path, **s3.environment)
    assert done.returncode == 0, done.stderr
    agreed(read_json(f"{at}/run", "metrics.json"), metrics_of(local_run))
    storage = Storage.at(f"{at}/predicted")
    tables = [
        pq.read_table(storage.open(name)) for name in storage.names("predictions") if name.endswith(".parquet")
    ]
    assert sum(len(table) for table in tables) == 62
    assert not any(key.endswith(".partial") for key in s3.keys("jobs/"))


def classes(folder: Path) -> str:
    """Return a file that names the classes of all images."""
    (folder / "classes.txt").write_text("ash\nbeech\ncedar\n")
    return str(folder / "classes.txt")


WHEN_OVERTAKEN = """
    from spark_jobs.ingestion.table_update import Table, TableUpdate
    import os, pathlib, time
    commit = TableUpdate.commit
    def when_overtaken(update, *more):
        pathlib.Path("written").touch()
        while "OVERTAKEN" in os.environ and not Table.exists(update.storage):
            time.sleep(0.1)
        return commit(update, *more)
    TableUpdate.commit = when_overtaken
"""
"""Makes an ingest wait at its end until another has made the table, if OVERTAKEN is set."""


def test_ingests_on_hdfs_that_are_killed_or_that_another_overtakes_are_completed(
    servers: Servers, tmp_path: Path
) -> None:
    """Finished files are kept, nothing is visible before the end, and of two at once, one is told."""
    at = f"{servers.yarn.hdfs}/killed"
    photos = write_bitmaps(tmp_path / "photos", ("ash", "beech"), 300, 200)
    line, variables, written = kill_ingest(tmp_path, f"folder:{photos}", at, 3, WHEN_OVERTAKEN)
    with pytest.raises(InputError, match=r"no dataset\.json"):
        open_table(f"parquet:{at}")

    for name in ("ash", "beech"):
        (tmp_path / "others" / name).mkdir(parents=True)
        shutil.copy(photos / name / "large000.bmp", tmp_path / "others" / name / "other.bmp")
    with ThreadPoolExecutor() as pool:
        overtaken = pool.submit(command, *line, cwd=tmp_path, **variables, OVERTAKEN="yes")
        settle((tmp_path / "written").exists, 120)
        few = [word.replace(str(photos), str(tmp_path / "others")) for word in line]
        other_done = command(*few, cwd=tmp_path, **variables)
        first_done = overtaken.result()
    assert other_done.returncode == 0, other_done.stderr
    assert first_done.returncode == 1, first_done.stderr
    assert "another ingest changed the table meanwhile; run this one again" in first_done.stderr
    again = command(*line, cwd=tmp_path, **variables)
    assert again.returncode == 0, again.stderr
    table = open_table(f"parquet:{at}")
    assert table is not None
    files = {file.file for file in table.files}
    assert written <= files
    assert set(Storage.at(at).names("images")) == files
    assert sum(read_json(at, "dataset.json")["images"].values()) == 602
