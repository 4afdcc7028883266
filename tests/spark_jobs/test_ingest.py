"""Tables made on Spark: from every source, extended, completed after a kill, and fitted like the source."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.data.images import Block
from common.data.sources import open_table
from common.data.splits import FoldRule, hashed_test, stable_hashes
from common.data.table.reading import TableImages
from common.data.table.table import Table
from common.errors import InputError
from common.ridge.model import RidgeModel
from spark_jobs import gram, ingest, inner, outer, serial
from tests.support.herbarium import herbarium
from tests.support.jobs import command, metrics_of, run_main
from tests.support.killed import finished, kill_ingest, write_bitmaps
from tests.support.places import ROOT

pytestmark = pytest.mark.spark

JOBS = {"serial": serial.main, "outer": outer.main, "inner": inner.main, "gram": gram.main}


def table_at(folder: Path) -> Table:
    table = open_table(f"parquet:{folder}")
    assert table is not None
    return table


def everything(folder: Path, split: str | None = None) -> Block:
    return TableImages(table_at(folder), FoldRule(None, 0.2), split).load(names=True)


def contents(folder: Path) -> dict[str, tuple[bytes, str]]:
    block, names = everything(folder), table_at(folder).class_names
    assert block.names is not None
    assert len(set(map(str, block.names))) == len(block.names) == len(block.labels)
    return {
        str(name): (pixels.tobytes(), names[label])
        for name, pixels, label in zip(block.names, block.pixels, block.labels, strict=True)
    }


def run(*words: str | Path) -> None:
    assert ingest.main([*map(str, words), "--quiet"]) == 0


def quarantine(folder: Path) -> dict[str, str]:
    table = table_at(folder)
    if table.quarantine is None:
        return {}
    rows = pq.read_table(folder / table.quarantine).to_pylist()
    assert len(rows) == table.quarantined
    return {row["name"]: row["reason"] for row in rows}


def test_digits(spark: Any, tmp_path: Path) -> None:
    run("digits", tmp_path / "t")
    images = contents(tmp_path / "t")
    assert len(images) == 1797
    names = list(images)
    in_test = hashed_test(stable_hashes(names), 0.2)
    test = {str(name) for name in everything(tmp_path / "t", "test").names or ()}
    assert test == {name for name, held_out in zip(names, in_test, strict=True) if held_out}
    described = json.loads((tmp_path / "t" / "dataset.json").read_text())
    assert described["shape"] == [8, 8, 1]
    assert described["class_names"] == list("0123456789")
    assert described["images"] == {"train": 1797 - len(test), "test": len(test)}
    assert set(described["columns"]) == {"pixels", "label", "name", "split", "fold"}
    schema = pq.read_schema(tmp_path / "t" / described["files"][0]["file"])
    assert schema.names == ["pixels", "label", "name", "split", "fold"]
    page = (tmp_path / "t" / "report.html").read_text()
    assert "1,797 images in 10 classes" in page
    assert page.count('src="data:image/png') == 10


@pytest.mark.mnist
def test_mnist_keeps_its_own_test_set_and_jobs_agree_on_the_table(
    spark: Any, tmp_path: Path, data_root: Path
) -> None:
    run("mnist", tmp_path / "t", "--data-root", data_root)
    assert {k: int(v.sum()) for k, v in table_at(tmp_path / "t").class_counts.items()} == {
        "train": 60_000,
        "test": 10_000,
    }
    found = {}
    for job in ("serial", "gram", "outer"):
        found[job] = run_main(JOBS[job], tmp_path / job, "--data", f"parquet:{tmp_path / 't'}")
    for job in ("gram", "outer"):
        for key in ("validation_correct", "best_lambda", "test_accuracy", "macro_f1", "images"):
            assert found[job][key] == found["serial"][key], (job, key)
    assert 0.855 <= found["gram"]["test_accuracy"] <= 0.870


def bomb(path: Path) -> None:
    """Write a PNG of 50,000×50,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.fixture
def spoilt(folder_of_images: Path) -> Path:
    """Images among which are a truncated one, an empty file, a decompression bomb and a text file named .jpg."""
    whole = (folder_of_images / "ash" / "03.png").read_bytes()
    (folder_of_images / "ash" / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder_of_images / "beech" / "05.png").write_bytes(b"")
    bomb(folder_of_images / "cedar" / "07.png")
    (folder_of_images / "cedar" / "text.jpg").write_text("no image")
    return folder_of_images


def check_quarantine(folder: Path) -> None:
    reasons = quarantine(folder)
    assert set(reasons) == {"ash/03.png", "beech/05.png", "cedar/07.png", "cedar/text.jpg"}
    assert "--max-pixels" in reasons["cedar/07.png"]
    assert reasons["cedar/text.jpg"] == "not a PNG, JPEG, BMP, TIFF or WebP image"
    assert len(contents(folder)) == 57
    page = (folder / "report.html").read_text()
    assert "4 images are in quarantine" in page
    assert all(f"{name}: " in page for name in reasons)


def test_a_folder_with_files_that_are_no_images(spark: Any, tmp_path: Path, spoilt: Path) -> None:
    run(f"folder:{spoilt}", tmp_path / "t", "--size", "10x12")
    check_quarantine(tmp_path / "t")
    metrics = run_main(gram.main, tmp_path / "run", "--data", f"parquet:{tmp_path / 't'}", "--lambdas", "1")
    assert metrics["images"]["quarantined"] == 4
    assert "4 images are in quarantine" in (tmp_path / "run" / "report.html").read_text()


def test_a_glob_is_the_same_table_as_the_folder(spark: Any, tmp_path: Path, spoilt: Path) -> None:
    run(f"{spoilt}/*/*", tmp_path / "glob")
    check_quarantine(tmp_path / "glob")
    run(f"folder:{spoilt}", tmp_path / "folder")
    assert contents(tmp_path / "glob") == contents(tmp_path / "folder")
    assert table_at(tmp_path / "glob").class_names == ("ash", "beech", "cedar")
    run(f"file://{spoilt}/[ab]*/*.png", tmp_path / "some", "--grey", "--size", "4x4")
    assert table_at(tmp_path / "some").class_names == ("ash", "beech")
    assert len(contents(tmp_path / "some")) == 38


def test_a_repaired_image_leaves_the_quarantine(spark: Any, tmp_path: Path, spoilt: Path) -> None:
    for source in (f"folder:{spoilt}", f"{spoilt}/*/*"):
        table = tmp_path / source[:3].strip("/")
        run(source, table)
        before = contents(table)
        text = (spoilt / "cedar" / "text.jpg").read_bytes()
        Image.new("RGB", (12, 10), "red").save(spoilt / "cedar" / "text.jpg")
        run(source, table)
        assert set(quarantine(table)) == {"ash/03.png", "beech/05.png", "cedar/07.png"}
        after = contents(table)
        assert set(after) - set(before) == {"cedar/text.jpg"}
        assert all(after[name] == kept for name, kept in before.items())
        (spoilt / "cedar" / "text.jpg").write_bytes(text)


def test_herbarium(spark: Any, tmp_path: Path) -> None:
    herbarium(tmp_path / "h")
    run(f"herbarium:{tmp_path / 'h'}", tmp_path / "t", "--size", "6x6")
    assert table_at(tmp_path / "t").class_names == ("Séneçon", "Abies")
    assert len(contents(tmp_path / "t")) == 8


def test_new_images_are_added_and_no_image_changes_its_split(
    spark: Any, tmp_path: Path, folder_of_images: Path
) -> None:
    late = [folder_of_images / "ash" / "07.png", *sorted((folder_of_images / "cedar").iterdir())]
    away = tmp_path / "away"
    away.mkdir()
    for i, path in enumerate(late):
        path.rename(away / str(i))
    (folder_of_images / "cedar").rmdir()
    run(f"folder:{folder_of_images}", tmp_path / "t")
    before, files = contents(tmp_path / "t"), table_at(tmp_path / "t").files
    test = set(map(str, everything(tmp_path / "t", "test").names or ()))
    assert len(before) == 39
    (folder_of_images / "cedar").mkdir()
    for i, path in enumerate(late):
        (away / str(i)).rename(path)
    run(f"folder:{folder_of_images}", tmp_path / "t")
    after = contents(tmp_path / "t")
    assert len(after) == 60
    assert {name: after[name] for name in before} == before
    assert set(files) < set(table_at(tmp_path / "t").files)
    assert table_at(tmp_path / "t").class_names == ("ash", "beech", "cedar")
    assert set(map(str, everything(tmp_path / "t", "test").names or ())) & set(before) == test
    run(f"folder:{folder_of_images}", tmp_path / "whole")
    assert contents(tmp_path / "whole") == after
    listed = sorted(path.name for path in (tmp_path / "t" / "images").iterdir())
    run(f"folder:{folder_of_images}", tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t" / "images").iterdir()) == listed


def test_the_classes_of_another_table(spark: Any, tmp_path: Path, folder_of_images: Path) -> None:
    run(f"folder:{folder_of_images}", tmp_path / "all")
    only = f"{folder_of_images}/cedar/*"
    with pytest.raises(InputError, match="only one class, 'cedar'"):
        run(only, tmp_path / "week")
    run(only, tmp_path / "week", "--classes", tmp_path / "all")
    assert table_at(tmp_path / "week").class_names == ("ash", "beech", "cedar")
    assert set(everything(tmp_path / "week").labels.tolist()) == {2}
    (tmp_path / "classes.txt").write_text("cedar\nash\n")
    with pytest.raises(InputError, match="'beech' of the source is not among --classes"):
        run(f"folder:{folder_of_images}", tmp_path / "some", "--classes", tmp_path / "classes.txt")
    run(f"{folder_of_images}/[ac]*/*", tmp_path / "two", "--classes", tmp_path / "classes.txt")
    assert table_at(tmp_path / "two").class_names == ("cedar", "ash")
    with pytest.raises(InputError, match="the table has other classes"):
        run(only, tmp_path / "two", "--classes", tmp_path / "all")


TABLE_RUNS = {"plain": [], "folds": ["--folds", "5"], "limit": ["--limit", "700", "--validation", "0.3"]}
"""By name: flags of a run on a table."""


@pytest.fixture(scope="module")
def serial_table(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a table, and a run folder of serial.py for each of `TABLE_RUNS`."""
    folder = tmp_path_factory.mktemp("digits")
    run("digits", folder / "table")
    for name, flags in TABLE_RUNS.items():
        data = ["--data", f"parquet:{folder / 'table'}", "--lambdas", "0:3:4"]
        run_main(serial.main, folder / name, *data, *flags)
    return folder


@pytest.mark.parametrize("job", list(JOBS))
def test_every_ridge_job_fits_a_table(spark: Any, tmp_path: Path, serial_table: Path, job: str) -> None:
    for name, flags in TABLE_RUNS.items():
        expected = metrics_of(serial_table / name)
        data = ["--data", f"parquet:{serial_table / 'table'}", "--lambdas", "0:3:4"]
        found = run_main(JOBS[job], tmp_path / f"job{name}", *data, *flags)
        for key in ("validation_correct", "best_lambda", "test_accuracy", "images", "shape", "classes"):
            assert found[key] == expected[key], (flags, key)
    assert found["images"]["train"] + found["images"]["validation"] == 700
    model = RidgeModel.load(tmp_path / f"job{name}")
    assert model.shape == (8, 8, 1)


def refused(tmp_path: Path, *words: str | Path, message: str) -> None:
    done = command("spark-submit", ROOT / "spark_jobs" / "ingest.py", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "incubator modules" not in line]
    assert line.startswith("ingest.py: ")
    assert message in line


def test_an_ingest_that_is_refused_prints_one_line(tmp_path: Path, folder_of_images: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("kept")
    refused(tmp_path, "digits", "precious", message="holds 'thesis.tex', which does not belong to a table")
    assert (tmp_path / "precious" / "thesis.tex").read_text() == "kept"
    for path in folder_of_images.rglob("*.png"):
        path.write_bytes(b"damaged")
    refused(tmp_path, f"{folder_of_images}/*/*", "t", "--size", "4x4", message="no image in it can be used")


def test_a_source_without_usable_images_is_refused(spark: Any, tmp_path: Path, folder_of_images: Path) -> None:
    for source, message in (
        (f"{tmp_path}/nothing/*/*.jpg", "no file matches"),
        ("pictures", "no such source"),
        ("flder:pics/*/*.jpg", "no file matches"),
        ("s3x://bucket/*/*.jpg", r"cannot be reached \(.*s3x"),
    ):
        with pytest.raises(InputError, match=message):
            run(source, tmp_path / "t")
    for path in folder_of_images.rglob("*.png"):
        path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="can be decoded"):
        run(f"{folder_of_images}/*/*", tmp_path / "t")
    with pytest.raises(InputError, match=r"no dataset\.json there"):
        run_main(JOBS["gram"], tmp_path / "run", "--data", f"parquet:{tmp_path / 't'}")


def test_a_table_has_one_pixel_format(spark: Any, tmp_path: Path, folder_of_images: Path) -> None:
    source = f"folder:{folder_of_images}"
    run(source, tmp_path / "t", "--size", "5x6", "--grey")
    for flags, message in (
        (["--size", "6x6"], "its images are 5x6 grey"),
        (["--test", "0.5"], "was made with --test 0.2"),
    ):
        with pytest.raises(InputError, match=message):
            run(source, tmp_path / "t", *flags)
    with pytest.raises(InputError, match=r"its images are 5x6 grey, not 7x7"):
        gram.main(["--data", f"parquet:{tmp_path / 't'}", "--size", "7x7", "--out", str(tmp_path / "run")])
    run(source, tmp_path / "natural")
    with pytest.raises(InputError, match=r"holds images of \(10, 12, 3\), and the source has \(8, 8, 1\)"):
        run("digits", tmp_path / "natural")


def test_a_killed_ingest_leaves_nothing_visible_and_is_completed(tmp_path: Path, folder_of_images: Path) -> None:
    write_bitmaps(folder_of_images, ("ash", "beech", "cedar"), 300, 300)
    table, whole = tmp_path / "t", tmp_path / "whole"
    line, variables, written = kill_ingest(tmp_path, f"folder:{folder_of_images}", str(table), 4)
    assert not (table / "dataset.json").exists()
    with pytest.raises(InputError, match=r"no dataset\.json"):
        table_at(table)

    again = command(*line, cwd=tmp_path, **variables)
    assert again.returncode == 0, again.stderr
    files = {file.file for file in table_at(table).files}
    assert written <= files  # finished files were not written again
    assert finished(str(table)) == files
    assert not list((table / "images").glob("*.partial"))
    done = command(*(str(whole) if word == str(table) else word for word in line), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert contents(table) == contents(whole)
    assert len(contents(table)) == 960


def test_files_that_a_killed_ingest_of_another_source_left_do_not_become_visible(
    spark: Any, tmp_path: Path, folder_of_images: Path
) -> None:
    run(f"folder:{folder_of_images}", tmp_path / "t")
    (tmp_path / "t" / "dataset.json").unlink()  # as if it had been killed just before its end
    run(f"{folder_of_images}/[ab]*/*.png", tmp_path / "t")
    assert len(contents(tmp_path / "t")) == 40
    assert len(list((tmp_path / "t" / "images").iterdir())) == len(table_at(tmp_path / "t").files)


def test_images_that_a_killed_ingest_wrote_twice_count_once(
    spark: Any, tmp_path: Path, folder_of_images: Path
) -> None:
    """Images dealt out in other parts give files of other names."""
    source = f"folder:{folder_of_images}"
    run(source, tmp_path / "t")
    whole = contents(tmp_path / "t")
    for path in folder_of_images.rglob("1*.png"):
        path.rename(path.with_suffix(".hidden"))
    run(source, tmp_path / "few")
    for path in folder_of_images.rglob("*.hidden"):
        path.rename(path.with_suffix(".png"))
    for path in (tmp_path / "few" / "images").iterdir():
        path.rename(tmp_path / "t" / "images" / path.name)
    run(source, tmp_path / "t")
    assert contents(tmp_path / "t") == whole
    (tmp_path / "t" / "dataset.json").unlink()
    run(source, tmp_path / "t")
    assert contents(tmp_path / "t") == whole


def test_a_file_of_the_table_is_never_removed(
    spark: Any, tmp_path: Path, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"folder:{folder_of_images}"
    run(source, tmp_path / "t")
    whole = contents(tmp_path / "t")
    file = tmp_path / "t" / table_at(tmp_path / "t").files[0].file
    data = file.read_bytes()
    file.write_bytes(data[:100])
    with pytest.raises(InputError, match="delete it, and ingest again what it was made from"):
        run(source, tmp_path / "t")
    assert file.exists()
    file.unlink()
    run(source, tmp_path / "t")
    assert "files that are gone" in capsys.readouterr().err
    assert contents(tmp_path / "t") == whole


def test_half_written_files_of_a_killed_ingest_are_removed(spark: Any, tmp_path: Path) -> None:
    for folder in ("", "images", "quarantine"):
        (tmp_path / "t" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / folder / f"{'0' * 32}.partial").write_bytes(b"half")
    run("digits", tmp_path / "t")
    assert not list((tmp_path / "t").rglob("*.partial"))
    assert len(contents(tmp_path / "t")) == 1797


def test_a_file_of_a_glob_has_one_name_whatever_the_current_folder(
    spark: Any, tmp_path: Path, folder_of_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(f"{folder_of_images}/*/*.png", tmp_path / "t")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for glob in ("../images/*/*.png", "./../images/*/*.png", f"{tmp_path}/cwd/../images/*/*.png"):
        run(glob, tmp_path / "t")
        assert len(contents(tmp_path / "t")) == 60
    monkeypatch.chdir(folder_of_images)
    run("*/*.png", tmp_path / "t")
    assert len(contents(tmp_path / "t")) == 60


def test_names_that_the_table_holds_are_counted(
    spark: Any, tmp_path: Path, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"folder:{folder_of_images}", tmp_path / "t")
    for source in (f"folder:{folder_of_images}", f"{folder_of_images}/*/*.png"):
        assert ingest.main([source, str(tmp_path / "t")]) == 0
        assert "0 images added, 60 there before, 0 in quarantine" in capsys.readouterr().out


def test_a_folder_whose_name_has_brackets_is_not_a_glob(
    spark: Any, tmp_path: Path, folder_of_images: Path
) -> None:
    folder_of_images.rename(tmp_path / "photos[2026]*")
    run(f"folder:{tmp_path}/photos[2026]*", tmp_path / "t")
    assert len(contents(tmp_path / "t")) == 60
