"""Deep features on every engine, through tables of features, moments files and predictions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.data.storage import Storage
from common.data.table.table import Table
from common.errors import InputError
from common.ridge.model import RidgeModel
from spark_jobs import gram, ingest, inner, outer, predict, serial
from tests.support.jobs import AGREED, metrics_of, mpiexec, run_main
from tests.support.onnx import WIDTH, embedder
from tests.support.places import ROOT

pytestmark = pytest.mark.spark

LAMBDAS = ("--lambdas", "-2:2:5")

WITHOUT_TORCH = """
import sys

sys.modules["torch"] = None  # importing it fails, on whichever rank

from mpi_jobs import predict_cnn, profile_cnn
from mpi_jobs.engine.exits import run_mpi_job


def main():
    profile_cnn.main([*sys.argv[1:5], "--quiet", "--seconds", "0.1", "--out", "profiled"])
    profile = ["--profile", "profiled/profile.json"]
    return predict_cnn.main([*sys.argv[1:], *profile, "--quiet", "--batch", "8", "--out", "in-ranks"])


run_mpi_job(main)
"""


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A network for the images of `folder_of_images`."""
    return embedder(tmp_path / "network.onnx")


def without_moments(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """The entries that jobs agree on; outer keeps its moments on the workers."""
    return {key: metrics[key] for key in AGREED if name != "outer" or key != "moments_sha256"}


def test_every_engine_embeds_images_alike(
    spark: Any, tmp_path: Path, network: Path, folder_of_images: Path
) -> None:
    flags = ["--data", f"folder:{folder_of_images}", "--features", f"network:{network}+random:40,signs", *LAMBDAS]
    found = {
        "serial": run_main(serial.main, tmp_path / "serial", *flags),
        "gram": run_main(gram.main, tmp_path / "gram", *flags, "--partitions", "3"),
        "outer": run_main(outer.main, tmp_path / "outer", *flags),
        "inner": run_main(inner.main, tmp_path / "inner", *flags),
    }
    for job, ranks in (("ridge_data_parallel", 3), ("ridge_model_parallel", 2)):
        out = tmp_path / job
        done = mpiexec(ranks, ROOT / "mpi_jobs" / f"{job}.py", *flags, "--out", out, "--quiet", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[job] = metrics_of(out)
    expected = found["serial"]
    assert expected["shape"] == [24, 36, 3]
    assert expected["n_features"] == 40
    for name, metrics in found.items():
        for key, value in without_moments(metrics, name).items():
            assert value == expected[key], (name, key)


def test_a_table_of_embeddings_serves_every_job_and_new_images(
    spark: Any, tmp_path: Path, network: Path, folder_of_images: Path
) -> None:
    """Ingest once, with the network; nobody needs the file afterwards."""
    table = tmp_path / "table"
    words = [f"folder:{folder_of_images}", str(table), "--features", f"network:{network},root", "--quiet"]
    assert ingest.main(words) == 0
    network.unlink()
    flags = ["--data", f"parquet:{table}", *LAMBDAS]
    found = {
        "serial": run_main(serial.main, tmp_path / "serial", *flags),
        "outer": run_main(outer.main, tmp_path / "outer", *flags),
        "inner": run_main(inner.main, tmp_path / "inner", *flags),
    }
    for partitions in (1, 3, 8):
        more = ["--partitions", str(partitions), "--save-moments", str(tmp_path / f"{partitions}.npz")]
        name = f"gram, {partitions}"
        found[name] = run_main(gram.main, tmp_path / name, *flags, *more)
    for job, ranks in (("ridge_data_parallel", 4), ("ridge_model_parallel", 3)):
        out = tmp_path / job
        done = mpiexec(ranks, ROOT / "mpi_jobs" / f"{job}.py", *flags, "--out", out, "--quiet", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[job] = metrics_of(out)
    expected = found["serial"]
    assert expected["n_features"] == WIDTH
    assert expected["shape"] == [24, 36, 3]
    for name, metrics in found.items():
        for key, value in without_moments(metrics, name).items():
            assert value == expected[key], (name, key)
    known = ["--add-moments", str(tmp_path / "3.npz")]  # nothing is left to sum
    again = run_main(gram.main, tmp_path / "again", *flags, *known)
    assert again["moments_sha256"] == expected["moments_sha256"]

    out = tmp_path / "predicted"
    flags = ["--model", str(tmp_path / "serial"), "--data", f"folder:{folder_of_images}", "--top", "2", "--scores"]
    assert predict.main([*flags, "--format", "csv", "--quiet", "--out", str(out)]) == 0
    rows = list(csv.reader((out / "predictions.csv").open()))[1:]
    model = RidgeModel.load(tmp_path / "serial")
    assert len(rows) == len(list(folder_of_images.rglob("*.png")))
    assert {predicted for _, predicted, *_ in rows} <= set(model.class_names)
    right = [name.split("/")[0] == predicted for name, predicted, *_ in rows]
    assert np.mean(right) > 0.5

    (tmp_path / "job.py").write_text(WITHOUT_TORCH)
    done = mpiexec(4, "job.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    in_ranks = list(csv.reader((tmp_path / "in-ranks" / "predictions.csv").open()))[1:]
    assert in_ranks == sorted(rows)  # the scores too, to the last digit
    profile = metrics_of(tmp_path / "in-ranks")["profile"]
    assert profile["seconds"]["features"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "32x32"], "takes images of 24x36x3, not 32x32x3; use --size 24x36"),
        (["--save-moments", "m.npz"], "are not exact"),
    ],
)
def test_what_does_not_go_with_a_network_is_one_line(
    tmp_path: Path,
    network: Path,
    folder_of_images: Path,
    flags: list[str],
    message: str,
) -> None:
    words = ["--data", f"folder:{folder_of_images}", "--features", f"network:{network}", "--quiet", *flags]
    words += ["--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match=message):
        gram.main(words)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def fragile(tmp_path: Path) -> Path:
    """A network that makes NaN of white images."""
    return embedder(tmp_path / "fragile.onnx", fragile=True)


def whiten(folder: Path, *names: str) -> None:
    for name in names:
        Image.new("RGB", (12, 10), "white").save(folder / name)


def test_images_of_which_a_network_makes_no_number_go_to_the_quarantine(
    spark: Any, tmp_path: Path, fragile: Path, folder_of_images: Path
) -> None:
    whiten(folder_of_images, "ash/03.png", "ash/04.png", "cedar/11.png")
    features = f"network:{fragile}+random:20"  # what the second stage learns from needs no white image either
    words = [f"folder:{folder_of_images}", str(tmp_path / "table"), "--features", features, "--quiet"]
    assert ingest.main(words) == 0
    table = Table.open(Storage.at(str(tmp_path / "table")))
    rows = pq.read_table(tmp_path / "table" / str(table.quarantine)).to_pylist()
    assert {row["name"] for row in rows} == {"ash/03.png", "ash/04.png", "cedar/11.png"}
    assert {row["reason"] for row in rows} == {"fragile.onnx makes numbers of it that are not finite"}
    assert sum(int(counts.sum()) for counts in table.class_counts.values()) == 57
    metrics = run_main(serial.main, tmp_path / "run", "--data", f"parquet:{tmp_path / 'table'}", *LAMBDAS)
    assert metrics["images"]["quarantined"] == 3

    # the model predicts all other images, and says why it does not predict these
    flags = ["--model", str(tmp_path / "run"), "--data", f"folder:{folder_of_images}", "--format", "csv"]
    assert predict.main([*flags, "--quiet", "--out", str(tmp_path / "predicted")]) == 0
    found = list(csv.DictReader((tmp_path / "predicted" / "predictions.csv").open()))
    failed = {row["Id"] for row in found if row["Error"] == "fragile.onnx makes numbers of it that are not finite"}
    assert failed == {"ash/03.png", "ash/04.png", "cedar/11.png"}
    assert sum(bool(row["Predicted"]) for row in found) == 57
    (tmp_path / "job.py").write_text(WITHOUT_TORCH)
    done = mpiexec(2, "job.py", *flags[:4], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    in_ranks = list(csv.DictReader((tmp_path / "in-ranks" / "predictions.csv").open()))
    assert {row["Id"]: row["Predicted"] for row in in_ranks} == {row["Id"]: row["Predicted"] for row in found}
    skipped = (tmp_path / "in-ranks" / "skipped.csv").read_text()
    assert skipped.count("fragile.onnx makes numbers of it that are not finite") == 3


@pytest.mark.parametrize("job", [serial, gram, outer], ids=lambda job: job.__name__)
def test_a_ridge_job_names_the_image_that_its_network_fails_on(
    spark: Any, tmp_path: Path, fragile: Path, folder_of_images: Path, job: Any
) -> None:
    whiten(folder_of_images, "beech/02.png")
    words = ["--data", f"folder:{folder_of_images}", "--features", f"network:{fragile}", "--lambdas", "1"]
    with pytest.raises(InputError) as error:
        job.main([*words, "--quiet", "--out", str(tmp_path / "run")])
    said = "beech/02.png: fragile.onnx makes numbers of it that are not finite; leave the image out, or use other"
    assert str(error.value) == f"{said} --features"
    assert not (tmp_path / "run").exists()


def test_grey_images_of_another_size_are_enlarged_and_repeated(tmp_path: Path, network: Path) -> None:
    found = run_main(serial.main, tmp_path / "run", "--features", f"network:{network}", *LAMBDAS)
    assert found["shape"] == [24, 36, 1]
    assert found["n_features"] == WIDTH
