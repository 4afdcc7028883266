"""Odd names, links and classes that share a name, through every job: nothing is lost and all agree."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.data.decode import AS_THEY_ARE
from common.data.sources import open_table
from common.data.sources.glob import Glob
from common.errors import InputError
from spark_jobs import gram, ingest, inner, outer, predict, serial
from tests.support.herbarium import herbarium, write_metadata
from tests.support.jobs import AGREED, command, metrics_of, mpiexec, run_main
from tests.support.odd_names import OddTree, encoded, odd_tree
from tests.support.places import ROOT

FLAGS = ["--lambdas", "1,100", "--folds", "3", "--max-corrupt", "0.5"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> OddTree:
    return odd_tree(tmp_path_factory.mktemp("odd names"))


def total(metrics: dict[str, Any]) -> int:
    """The number of files that a run accounts for."""
    images = metrics["images"]
    n_fitted = images["train"] + (0 if metrics["folds"] else images["validation"])
    return int(n_fitted + images["test"] + images["skipped"] + images["quarantined"] + images["ignored"])


def test_all_jobs_agree_on_a_folder_of_odd_names(spark: Any, tmp_path: Path, tree: OddTree) -> None:
    flags = ["--data", f"folder:{tree.root}", *FLAGS]
    truth = run_main(serial.main, tmp_path / "serial", *flags)
    assert total(truth) == tree.files
    assert truth["images"]["ignored"] == tree.ignored
    assert truth["images"]["skipped"] == len(tree.unusable)
    assert truth["classes"] == list(tree.classes)
    for job in (gram, outer, inner):
        metrics = run_main(job.main, tmp_path / job.__name__, *flags)
        assert {key: metrics[key] for key in AGREED if key in metrics} == {
            key: truth[key] for key in AGREED if key in metrics
        }
    for name in ("ridge_data_parallel", "ridge_model_parallel"):
        job_file, out = ROOT / "mpi_jobs" / f"{name}.py", tmp_path / name
        done = mpiexec(2, job_file, *flags, "--quiet", "--out", out, cwd=tmp_path, LC_ALL="C")
        assert done.returncode == 0, done.stderr
        assert {key: metrics_of(out)[key] for key in AGREED} == {key: truth[key] for key in AGREED}


def contents(table: Path) -> tuple[Any, ...]:
    opened = open_table(f"parquet:{table}")
    assert opened is not None
    counts = {split: own.tolist() for split, own in opened.class_counts.items()}
    return opened.class_names, counts, sorted(file.file for file in opened.files), opened.quarantined


def test_tables_of_a_folder_and_of_its_glob_hold_every_image(spark: Any, tmp_path: Path, tree: OddTree) -> None:
    for name, source in (("folder", f"folder:{tree.root}"), ("glob", f"{tree.root}/*/*")):
        assert ingest.main([source, str(tmp_path / name), "--quiet"]) == 0
        described = json.loads((tmp_path / name / "dataset.json").read_text())
        images = sum(described["images"].values())
        assert images == tree.images
        ignored = sum(described["ignored"][source].values())
        matched = tree.files if name == "folder" else tree.files - 4  # two are hidden, two lie in no folder
        assert images + described["quarantined"] + ignored == matched
    truth = run_main(serial.main, tmp_path / "truth", "--data", f"parquet:{tmp_path / 'folder'}", *FLAGS)
    assert total(truth) == tree.files
    for job in (gram, outer, inner):
        flags = ["--data", f"parquet:{tmp_path / 'folder'}", *FLAGS]
        metrics = run_main(job.main, tmp_path / job.__name__, *flags)
        assert metrics["validation_correct"] == truth["validation_correct"]
        assert metrics["images"] == truth["images"]


def test_predictions_have_a_row_for_every_image(spark: Any, tmp_path: Path, tree: OddTree) -> None:
    model = tmp_path / "model"
    run_main(serial.main, model, "--data", f"folder:{tree.root}", *FLAGS)
    flags = ["--model", str(model), "--format", "csv"]
    metrics = run_main(predict.main, tmp_path / "p", *flags, "--data", f"folder:{tree.root}")
    images = metrics["images"]
    n_outside = 1
    assert images["predicted"] == tree.images + n_outside
    assert images["predicted"] + images["unusable"] + images["ignored"] == tree.files
    one = tmp_path / "one"
    (one / "unknown").mkdir(parents=True)
    (one / "unknown" / "a.png").write_bytes(encoded("PNG", 3))
    (one / "b.png").write_bytes(encoded("PNG", 4))
    for number, data in enumerate((f"folder:{one}", f"folder:{one / 'unknown'}", f"{one}/**/*.png")):
        found = run_main(predict.main, tmp_path / f"one{number}", *flags, "--data", data)
        assert found["images"]["predicted"] == (1 if number == 1 else 2)
        assert found["images"]["labelled"] == 0
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbf" + os.fsencode(one / "b.png") + b"\r\n" + os.fsencode(one / "gone.png"))
    found = run_main(predict.main, tmp_path / "list", *flags, "--data", f"list:{names}")
    assert (found["images"]["predicted"], found["images"]["unusable"]) == (1, 1)


def test_categories_that_share_a_name_stay_apart_in_every_job(spark: Any, tmp_path: Path) -> None:
    """Two species of one name: what they are told apart by reaches tables, models, moments and predictions."""
    root = tmp_path / "herbarium"
    tables = herbarium(root)
    for category in tables["categories"]:
        category["name"] = "Abies"
    tables["images"], tables["annotations"] = [], []
    for number in range(40):
        name = f"images/{number}.png"
        (root / name).write_bytes(encoded("PNG", number))
        tables["images"].append({"id": number, "file_name": name})
        category = 7 if number % 8 < 4 else 30
        tables["annotations"].append({"id": number, "image_id": number, "category_id": category})
    write_metadata(root, tables)
    assert ingest.main([f"herbarium:{root}", str(tmp_path / "table"), "--quiet"]) == 0
    table = open_table(f"parquet:{tmp_path / 'table'}")
    assert table is not None
    assert table.classes == (("Abies", "Abies"), ("7", "30"))
    moments = tmp_path / "moments.npz"
    unlabelled = {"images": tables["images"], "info": {}}
    write_metadata(root / "test", unlabelled)
    (root / "test" / "images").symlink_to(root / "images")
    for data in (f"herbarium:{root}", f"parquet:{tmp_path / 'table'}"):
        out = tmp_path / f"model-{data.partition(':')[0]}"
        run_main(serial.main, out, "--data", data, "--lambdas", "1", "--folds", "2")
        flags = ["--model", str(out), "--format", "csv"]
        metrics = run_main(predict.main, tmp_path / f"{out.name}-u", *flags, "--data", f"herbarium:{root}")
        assert metrics["images"] == {"predicted": 40, "unusable": 0, "labelled": 0, "ignored": 0}
        annotated = f"herbarium:{root / 'metadata.json'}"
        metrics = run_main(predict.main, tmp_path / f"{out.name}-p", *flags, "--data", annotated)
        assert metrics["images"]["labelled"] == 40
        assert metrics["accuracy"] == 1.0
        rows = (tmp_path / f"{out.name}-p" / "predictions.csv").read_text().splitlines()[1:]
        assert {row.partition(",")[2] for row in rows} == {"7", "30"}
        assert sorted(row.partition(",")[0] for row in rows) == sorted(map(str, range(40)))
    flags = ["--data", f"herbarium:{root / 'metadata.json'}", "--lambdas", "1", "--folds", "2"]
    truth = metrics_of(tmp_path / "model-herbarium")
    for job in (gram, outer, inner):
        metrics = run_main(job.main, tmp_path / job.__name__, *flags)
        assert metrics["validation_correct"] == truth["validation_correct"]
    for name in ("ridge_data_parallel", "ridge_model_parallel"):
        done = mpiexec(
            2, ROOT / "mpi_jobs" / f"{name}.py", *flags, "--quiet", "--out", tmp_path / name, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert metrics_of(tmp_path / name)["moments_sha256"] == truth["moments_sha256"]
    own = ["--data", f"parquet:{tmp_path / 'table'}", "--lambdas", "1", "--folds", "2"]
    run_main(gram.main, tmp_path / "saved", *own, "--save-moments", str(moments))
    metrics = run_main(gram.main, tmp_path / "again", *own, "--add-moments", str(moments))
    assert metrics["moments_sha256"] == metrics_of(tmp_path / "saved")["moments_sha256"]


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "", "LANG": ""}, {"LC_ALL": "C.UTF-8"}])
def test_no_locale_loses_an_image(tmp_path: Path, locale: dict[str, str]) -> None:
    tree = odd_tree(tmp_path)
    table = tmp_path / "table"
    words = ["spark-submit", ROOT / "spark_jobs" / "ingest.py", f"folder:{tree.root}", table]
    done = command(*words, cwd=tmp_path, PYTHONUTF8="0", **locale)
    assert done.returncode == 0, done.stderr
    described = json.loads((table / "dataset.json").read_bytes())
    assert sum(described["images"].values()) == tree.images
    assert f"{tree.images} images added" in done.stdout
    assert f"{tree.ignored} files ignored" in done.stdout


def test_accents_that_spark_submit_loses_are_told_and_those_that_it_keeps_work(tmp_path: Path) -> None:
    tree = odd_tree(tmp_path / "fougères")
    job = ROOT / "spark_jobs" / "ingest.py"
    done = command("spark-submit", job, f"folder:{tree.root}", tmp_path / "table", cwd=tmp_path, LC_ALL="C")
    assert done.returncode == 2
    assert "foug??res" in done.stderr
    assert done.stderr.strip().endswith("in the locale C; set LC_ALL=C.UTF-8")
    assert "Traceback" not in done.stderr
    done = command("python", job, f"folder:{tree.root}", "tâble", "--quiet", cwd=tmp_path, LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert sum(json.loads((tmp_path / "tâble" / "dataset.json").read_bytes())["images"].values()) == tree.images


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("https://example.org/*/*.png", "cannot be listed; download the files first"),
        ("oss://bucket/*/*.png", "cannot be reached .*oss"),
        ("s3://bucket*/1.png", "name a host or bucket without wildcards"),
        ("hdfs://localhost:1/**/*.png", r"cannot be reached"),
    ],
)
def test_globs_that_cannot_be_listed_say_why(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Glob.of(pattern).open(AS_THEY_ARE)
    assert "\n" not in str(caught.value)


def test_names_of_the_table_from_another_source_are_told(
    spark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for week in ("week1", "week2"):
        for name in ("ash/1.png", "beech/1.png"):
            (tmp_path / week / name).parent.mkdir(parents=True)
            (tmp_path / week / name).write_bytes(encoded("PNG", len(week + name)))
    for week in ("week1", "week2"):
        assert ingest.main([f"{tmp_path}/{week}/*/*.png", str(tmp_path / "table"), "--size", "6x6"]) == 0
    assert "2 images were left alone because the table has images of their names" in capsys.readouterr().err
