"""Wrong input to a whole job: one line, exit code 2, and nothing written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from tests.support.herbarium import herbarium, write_metadata
from tests.support.jobs import command, metrics_of, serial
from tests.support.places import ROOT

pytestmark = pytest.mark.slow


def assert_refused(cwd: Path, *flags: str, message: str) -> None:
    before = sorted(cwd.rglob("*"))
    done = serial(*flags, "--out", "run", cwd=cwd)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("serial.py: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert sorted(cwd.rglob("*")) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "mnist", "--data-root", "nowhere"], "no such data root"),
        (["--data", "mnist", "--data-root", "."], "not found; `make data` downloads it"),
        (["--data", "folder:nowhere"], "no such folder"),
        (["--data", "herbarium:nowhere"], "metadata.json"),
        (["--data", "pictures"], "no such source"),
        (["--lambdas", "nan"], "finite"),
        (["--lambdas=-1,2"], "from 0 up"),
        (["--validation", "0"], "above 0 and below 1"),
        (["--validation", "1"], "above 0 and below 1"),
        (["--limit", "1"], "too few"),
        (["--limit", "5", "--folds", "9"], "too few"),
        (["--size", "200x200"], "--size"),
    ],
)
def test_flags_and_places(tmp_path: Path, flags: list[str], message: str) -> None:
    assert_refused(tmp_path, *flags, message=message)


def test_an_empty_class_folder(tmp_path: Path, folder_of_images: Path) -> None:
    (folder_of_images / "dogwood").mkdir()
    assert_refused(tmp_path, "--data", f"folder:{folder_of_images}", message="'dogwood' holds no image")


def test_a_single_class(tmp_path: Path, folder_of_images: Path) -> None:
    for name in ("ash", "beech"):
        (folder_of_images / name).rename(tmp_path / name)
    assert_refused(tmp_path, "--data", f"folder:{folder_of_images}", message="only one class")


def test_a_label_that_is_no_category_and_a_path_that_climbs_out(tmp_path: Path) -> None:
    tables = herbarium(tmp_path / "h")
    tables["annotations"][0]["category_id"] = 8
    write_metadata(tmp_path / "h", tables)
    assert_refused(tmp_path, "--data", "herbarium:h", message="label 8")
    tables["annotations"][0]["category_id"] = 7
    tables["images"][0]["file_name"] = "../secret.jpg"
    write_metadata(tmp_path / "h", tables)
    assert_refused(tmp_path, "--data", "herbarium:h", message="leads out of its folder")


def test_an_output_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("kept")
    assert_refused(tmp_path, message="exists and is not an empty folder")


def test_a_corrupt_image_is_skipped_counted_and_listed(tmp_path: Path, folder_of_images: Path) -> None:
    whole = (folder_of_images / "beech" / "03.png").read_bytes()
    (folder_of_images / "beech" / "03.png").write_bytes(whole[: len(whole) // 2])
    data = ("--data", f"folder:{folder_of_images}", "--lambdas", "1,10")
    refused = serial(*data, "--out", "run", cwd=tmp_path)
    assert refused.returncode == 2
    first, second = refused.stderr.splitlines()
    assert "1 of 48 training images cannot be used, more than --max-corrupt 0.01 allows" in first
    assert second.startswith("  beech/03.png: ")
    assert not (tmp_path / "run").exists()

    done = serial(*data, "--max-corrupt", "0.05", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    images = metrics_of(tmp_path / "run")["images"]
    assert images["skipped"] == 1
    assert images["train"] + images["validation"] + images["test"] == 59
    with (tmp_path / "run" / "skipped.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["beech/03.png"]
    assert "beech/03.png" in (tmp_path / "run" / "report.html").read_text()
    assert "1 image was skipped" in done.stderr


def test_one_corrupt_image_among_two_hundred_needs_no_flag(tmp_path: Path, folder_of_images: Path) -> None:
    for i in range(200):
        Image.new("RGB", (12, 10), (i, 0, 0)).save(folder_of_images / "ash" / f"more{i}.png")
    (folder_of_images / "ash" / "more0.png").write_bytes(b"")
    done = serial("--data", f"folder:{folder_of_images}", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run")["images"]["skipped"] == 1


def test_nothing_is_left_to_validate_with(tmp_path: Path, folder_of_images: Path) -> None:
    for path in folder_of_images.rglob("*.png"):
        if path.name != "00.png":
            path.write_bytes(b"damaged")
    flags = ["--data", f"folder:{folder_of_images}", "--max-corrupt", "1", "--folds", "10"]
    assert_refused(tmp_path, *flags, message="no usable image is left")


def test_class_names_of_any_kind_can_be_shown(tmp_path: Path, folder_of_images: Path) -> None:
    for old, new in (("ash", "$\\frac{1}$ <b>"), ("beech", "樹木"), ("cedar", "a" * 60)):
        (folder_of_images / old).rename(folder_of_images / new)
    done = serial("--data", f"folder:{folder_of_images}", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    page = (tmp_path / "run" / "report.html").read_text()
    assert r"$\frac{1}$ &lt;b&gt;" in page
    assert "樹木" in page


@pytest.mark.spark
def test_spark_submit_passes_the_exit_code_on(tmp_path: Path) -> None:
    done = command(
        "spark-submit", ROOT / "spark_jobs" / "gram.py", "--lambdas", "nan", "--out", "run", cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "incubator modules" not in line]
    assert line.startswith("gram.py: argument --lambdas: 'nan': every λ must be a finite number from 0 up")
    assert not list(tmp_path.iterdir())
