"""Jobs whose images, tables, moments, runs and predictions lie on HDFS or S3, on YARN and on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hdfs_native import Client

from common.data.sources import open_table
from common.data.storage import Storage
from common.errors import InputError
from common.ridge.moments_file import SavedMoments
from spark_jobs import serial
from tests.hadoop.conftest import Servers
from tests.support.hadoop.daemons import write_configuration
from tests.support.hadoop.jars import NEEDS, has_maven, s3a_jars
from tests.support.hadoop.spark import spark_on_yarn
from tests.support.images import write_images
from tests.support.jobs import AGREED, command, environment, metrics_of, run_main
from tests.support.places import ROOT
from tests.support.s3 import BUCKET, S3Server

pytestmark = [pytest.mark.spark, pytest.mark.skipif(not has_maven(), reason=NEEDS)]

SEVERAL = ROOT / "tests" / "support" / "several.py"
SIZE = ("--size", "8x8")
LAMBDAS = ("--lambdas", "1,10,100")
BY_HAND = ("spark-submit", "--master", "yarn", "--executor-memory", "512m", "--num-executors", "2")
PYTHON = ("--conf", f"spark.pyspark.python={sys.executable}")
"""Python with the packages that workers need, at the same path on every node."""


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


def agreed(metrics: dict[str, Any], expected: dict[str, Any]) -> None:
    """Make sure that two runs found the same; outer.py sums no moments, and so has no fingerprint."""
    for key in AGREED:
        if key in metrics or metrics["job"] != "outer":
            assert metrics[key] == expected[key], key


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


def test_images_table_moments_and_run_on_hdfs_by_executors_on_yarn(
    servers: Servers, photographs: Path, local_run: Path, tmp_path: Path
) -> None:
    hdfs = servers.yarn.hdfs
    upload(hdfs, photographs, "/photos")
    table = ("--data", f"parquet:{hdfs}/table", *LAMBDAS)
    lines = [
        ["ingest", f"{hdfs}/photos/*/*", f"{hdfs}/table", *SIZE],
        ["gram", *table, "--save-moments", f"{hdfs}/moments.npz", "--out", f"{hdfs}/runs/gram"],
        ["outer", *table, "--out", f"{hdfs}/runs/outer"],
    ]
    done = by_hand(servers, tmp_path, SEVERAL, jobs(*lines))
    assert done.returncode == 0, done.stderr[-3000:]
    for run in ("gram", "outer"):
        agreed(read_json(f"{hdfs}/runs/{run}", "metrics.json"), metrics_of(local_run))
    assert read_json(f"{hdfs}/table", "dataset.json")["quarantine"]
    saved = SavedMoments.load(f"{hdfs}/moments.npz")
    images = metrics_of(local_run)["images"]
    assert sum(moments.n for moments in saved.moments.values()) == images["train"] + images["validation"]


def by_hand(servers: Servers, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Submit to YARN with the zip of this project, as `make zip` makes it."""
    project = folder / "project.zip"
    assert command("python", "-m", "emr.package", project, cwd=ROOT).returncode == 0
    shutil.copytree(ROOT / "spark_jobs" / "conf", folder, dirs_exist_ok=True)
    variables = spark_on_yarn(servers.yarn, folder)
    return command(*BY_HAND, *PYTHON, "--py-files", project, *words, cwd=folder, timeout=400, **variables)


def test_a_driver_on_yarn_writes_its_run_to_hdfs(servers: Servers, local_run: Path, tmp_path: Path) -> None:
    """The lines of the cluster page in cluster mode: a zip, a run folder at an address, no shared disk."""
    hdfs = servers.yarn.hdfs
    words = ["--deploy-mode", "cluster", ROOT / "spark_jobs" / "gram.py", "--data", f"parquet:{hdfs}/table"]
    done = by_hand(servers, tmp_path, *words, *LAMBDAS, "--out", f"{hdfs}/runs/cluster")
    assert done.returncode == 0, done.stderr[-3000:]
    agreed(read_json(f"{hdfs}/runs/cluster", "metrics.json"), metrics_of(local_run))


def spark_on_s3(s3: S3Server, folder: Path) -> dict[str, str]:
    """Return the variables with which Spark on this machine reads s3a://."""
    write_configuration(folder / "core-site.xml", s3.hadoop | {"fs.s3.impl": ""})
    jars = os.pathsep.join(s3a_jars())
    return {**s3.environment, "HADOOP_CONF_DIR": str(folder), "SPARK_DIST_CLASSPATH": jars}


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
    variables = spark_on_s3(s3, tmp_path)
    done = command("spark-submit", SEVERAL, jobs(*lines), cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    s3.upload(photographs / "ash", "jobs/photos/ash")
    lines = [
        ["ingest", f"{also}/photos/*/*", f"{also}/table", *SIZE],
        ["gram", *table, "--add-moments", f"{also}/few.npz", "--out", f"{also}/run"],
        ["predict", "--model", str(local_run), "--data", f"{at}/photos/*/*", "--out", f"{at}/predicted"],
    ]
    done = command("spark-submit", SEVERAL, jobs(*lines), cwd=tmp_path, **variables)
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


def test_a_killed_ingest_on_hdfs_is_completed_and_two_at_once_are_told(servers: Servers, tmp_path: Path) -> None:
    """What was finished is kept; nothing is visible before the end; a table is never half of two."""
    hdfs = servers.yarn.hdfs
    rng = np.random.default_rng(1)
    idx = tmp_path / "photos"
    from PIL import Image

    for name in ("ash", "beech"):
        (idx / name).mkdir(parents=True)
        for i in range(300):
            Image.fromarray(rng.integers(0, 256, (200, 200, 3), np.uint8)).save(idx / name / f"{i:03d}.bmp")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.argv and sys.argv[0].endswith('ingest.py'):\n"
        "    import spark_jobs.ingestion.listing\n"
        "    spark_jobs.ingestion.listing.PART_DECODED = 50\n"
    )
    variables = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    line = ["spark-submit", "--master", "local[1]", str(ROOT / "spark_jobs" / "ingest.py"), f"folder:{idx}"]
    line += [f"{hdfs}/killed", "--size", "30x30", "--quiet"]
    process = subprocess.Popen(
        line,
        cwd=tmp_path,
        env=environment(**variables),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    storage, deadline = Storage.at(f"{hdfs}/killed"), time.monotonic() + 120
    while len(finished(storage)) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    written = finished(storage)
    with pytest.raises(InputError, match=r"no dataset\.json"):
        open_table(f"parquet:{hdfs}/killed")
    again = command(*line, cwd=tmp_path, **variables)
    assert again.returncode == 0, again.stderr
    table = open_table(f"parquet:{hdfs}/killed")
    assert table is not None
    files = {file.file for file in table.files}
    assert written <= files
    assert set(storage.names("images")) == files
    assert sum(read_json(f"{hdfs}/killed", "dataset.json")["images"].values()) == 600


def finished(storage: Storage) -> set[str]:
    return {name for name in storage.names("images") if name.endswith(".parquet")}
