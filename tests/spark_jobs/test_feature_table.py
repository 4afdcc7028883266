"""Tables of features: what an ingest stores is what jobs compute, to the same fingerprint."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.data.splits import FoldRule
from common.data.storage import Storage
from common.data.table.reading import TableImages
from common.data.table.table import Table
from common.errors import InputError
from common.features.stored import StoredFeatures
from common.features.table import map_of_table
from common.ridge.model import RidgeModel
from spark_jobs import gram, ingest, inner, outer, predict, serial
from tests.support.jobs import AGREED, metrics_of, mpiexec, run_main
from tests.support.places import ROOT

pytestmark = pytest.mark.spark

SPEC = "patches:4+random:60"


@pytest.fixture(scope="module")
def tables(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as pixels; their features, learnt by a job from these; and the same map at an ingest."""
    folder = tmp_path_factory.mktemp("tables")
    assert ingest.main(["digits", str(folder / "pixels"), "--quiet"]) == 0
    flags = ["--data", f"parquet:{folder / 'pixels'}", "--features", SPEC, "--lambdas", "0.1,10"]
    run_main(serial.main, folder / "run", *flags)
    stored = ["digits", str(folder / "stored"), "--features", f"from:{folder / 'run'}", "--quiet"]
    assert ingest.main(stored) == 0
    return folder


def contents(folder: Path) -> dict[str, np.ndarray]:
    """The images of a table by name."""
    images = TableImages(Table.open(Storage.at(str(folder))), FoldRule(None, 0.2)).load(names=True)
    return dict(zip(map(str, images.names or ()), images.pixels, strict=True))


def test_every_job_finds_the_fingerprint_of_the_images(tables: Path, tmp_path: Path) -> None:
    truth = metrics_of(tables / "run")
    flags = ["--data", f"parquet:{tables / 'stored'}", "--lambdas", "0.1,10"]
    for job in (serial, gram, inner):
        metrics = run_main(job.main, tmp_path / job.__name__, *flags)
        agreed = [key for key in AGREED if key in metrics]
        assert {key: metrics[key] for key in agreed} == {key: truth[key] for key in agreed}
        assert metrics["shape"] == [8, 8, 1]
        assert metrics["features"]["spec"] == f"from:{tables / 'run'}"
        assert metrics["test_accuracy"] == truth["test_accuracy"]
    assert run_main(outer.main, tmp_path / "outer", *flags)["validation_correct"] == truth["validation_correct"]
    out = tmp_path / "ranks"
    done = mpiexec(2, ROOT / "mpi_jobs" / "ridge_data_parallel.py", *flags, "--quiet", "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert metrics_of(out)["moments_sha256"] == truth["moments_sha256"]


def test_the_model_of_stored_features_predicts_images_and_stored_features(tables: Path, tmp_path: Path) -> None:
    run_main(serial.main, tmp_path / "run", "--data", f"parquet:{tables / 'stored'}", "--lambdas", "0.1,10")
    model = RidgeModel.load(tmp_path / "run")
    assert model.shape == (8, 8, 1)
    assert model.features.digest == RidgeModel.load(tables / "run").features.digest
    report = (tmp_path / "run" / "report.html").read_text()
    assert "4 filters of 6×6 pixels" in report
    found = [
        run_main(
            predict.main, tmp_path / name, "--model", str(tmp_path / "run"), "--data", f"parquet:{tables / name}"
        )["accuracy"]
        for name in ("pixels", "stored")
    ]
    assert found[0] == found[1] > 0.9
    run_main(serial.main, tmp_path / "other", "--data", "digits", "--lambdas", "1")
    with pytest.raises(InputError, match=r"holds the features from:.*, and the model is fitted to others"):
        run_main(
            predict.main,
            tmp_path / "no",
            "--model",
            str(tmp_path / "other"),
            "--data",
            f"parquet:{tables / 'stored'}",
        )


def test_moments_of_images_and_of_their_stored_features_add_up(tables: Path, tmp_path: Path) -> None:
    stored, pixels = f"parquet:{tables / 'stored'}", f"parquet:{tables / 'pixels'}"
    saved = str(tmp_path / "m.npz")
    run_main(gram.main, tmp_path / "a", "--data", stored, "--lambdas", "1", "--save-moments", saved)
    flags = ["--data", pixels, "--features", f"from:{saved}", "--lambdas", "1"]
    both = run_main(gram.main, tmp_path / "b", *flags, "--add-moments", saved)
    assert both["images"]["train"] > run_main(gram.main, tmp_path / "c", *flags)["images"]["train"]


def test_an_ingest_learns_from_training_images_and_goes_on_with_its_map(spark: Any, tmp_path: Path) -> None:
    table = tmp_path / "table"
    assert ingest.main(["digits", str(table), "--features", SPEC, "--quiet"]) == 0
    described = json.loads((table / "dataset.json").read_text())
    assert described["features"]["spec"] == SPEC
    assert described["shape"] == [1, 1, 60]
    assert (table / "report.html").read_text().count('src="data:image/png') == 10  # thumbnails
    opened = Table.open(Storage.at(str(table)))
    stored = map_of_table(opened)
    assert isinstance(stored, StoredFeatures)
    assert stored.image_shape == (8, 8, 1)
    metrics = run_main(serial.main, tmp_path / "run", "--data", f"parquet:{table}", "--lambdas", "0.1,10")
    assert metrics["test_accuracy"] > 0.9
    min((table / "images").iterdir()).unlink()
    assert ingest.main(["digits", str(table), "--quiet"]) == 0  # completes it by the same map
    again = run_main(serial.main, tmp_path / "again", "--data", f"parquet:{table}", "--lambdas", "0.1,10")
    assert again["moments_sha256"] == metrics["moments_sha256"]


def test_what_does_not_go_with_a_table_of_features_is_told(tables: Path, tmp_path: Path) -> None:
    data = ["--data", f"parquet:{tables / 'stored'}", "--lambdas", "1"]
    with pytest.raises(InputError, match="and no pixels; leave out --features"):
        run_main(serial.main, tmp_path / "a", *data, "--features", "patches:4")
    with pytest.raises(InputError, match="and no pixels; leave out --features"):
        run_main(serial.main, tmp_path / "a", *data, "--features", "pixels")
    with pytest.raises(InputError, match="leave out --augment"):
        run_main(serial.main, tmp_path / "a", *data, "--augment", "shift")
    again = ["digits", str(tables / "stored"), "--features", f"from:{tables / 'run'}", "--quiet"]
    assert ingest.main(again) == 0  # the same command, as for a table of images
    with pytest.raises(InputError, match=r"holds the features from:.* already; leave out --features"):
        ingest.main(["digits", str(tables / "stored"), "--features", SPEC, "--quiet"])
    with pytest.raises(InputError, match="holds pixels already; leave out --features"):
        ingest.main(["digits", str(tables / "pixels"), "--features", SPEC, "--quiet"])
    damaged = tmp_path / "damaged"
    shutil.copytree(tables / "stored", damaged)
    for harm in ("damaged", "missing"):
        if harm == "damaged":
            with np.load(damaged / "features.npz") as file:
                arrays = dict(file)
            arrays["features.then.offsets"][0] += 1
            np.savez(damaged / "features.npz", **arrays)
        else:
            (damaged / "features.npz").unlink()
        with pytest.raises(InputError, match=r"features\.npz: the feature map of the table cannot be read"):
            run_main(serial.main, tmp_path / "b", "--data", f"parquet:{damaged}", "--lambdas", "1")


def mistakes(run: Path) -> list[str]:
    """The figures of a report's mistakes, as HTML."""
    page = (run / "report.html").read_text()
    _, _, shown = page.partition('id="mistakes"')
    return re.findall(r"<figure>.*?</figure>", shown.partition("</section>")[0])


def png_of(figure: str) -> tuple[str, np.ndarray]:
    """The name and the pixels of a mistake that is shown."""
    name, data = re.findall(r'alt="(.*?)".*src="data:image/png;base64,(.*?)"', figure)[0]
    return name, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), float)


def test_a_report_shows_thumbnails_which_a_fit_does_not_read(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage the column of thumbnails: the fit is the same, and the report names what it cannot show."""
    flags = ["--lambdas", "1e6,1e7"]  # so large that there are mistakes
    metrics = run_main(serial.main, tmp_path / "run", "--data", f"parquet:{tables / 'stored'}", *flags)
    shown = dict(png_of(figure) for figure in mistakes(tmp_path / "run"))
    assert len(shown) == 24
    truth = contents(tables / "pixels")
    for name, picture in shown.items():
        assert picture.shape == (8, 8)
        assert np.abs(picture - truth[name][:, :, 0]).mean() < 10  # out of 255: JPEG is not exact

    damaged = tmp_path / "damaged"
    shutil.copytree(tables / "stored", damaged)
    for path in (damaged / "images").iterdir():
        data = bytearray(path.read_bytes())
        facts = pq.ParquetFile(path).metadata
        for group in range(facts.num_row_groups):
            column = facts.row_group(group).column(facts.num_columns - 1)
            assert column.path_in_schema == "thumbnail"
            start = column.data_page_offset
            for i in range(start + 100, start + column.total_compressed_size):
                data[i] ^= 255
        path.write_bytes(data)
    found = run_main(serial.main, tmp_path / "again", "--data", f"parquet:{damaged}", *flags)
    assert {key: found[key] for key in AGREED} == {key: metrics[key] for key in AGREED}
    assert all("<img" not in figure for figure in mistakes(tmp_path / "again"))
    assert "24 thumbnails of mistakes cannot be read; the report names these images" in capsys.readouterr().err


def test_a_table_of_an_earlier_version_has_no_thumbnails_and_takes_new_images(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(tables / "stored", old)
    for path in (old / "images").iterdir():
        stored = pq.read_table(path)
        pq.write_table(stored.drop_columns("thumbnail"), path, row_group_size=len(stored))
    described = json.loads((old / "dataset.json").read_text())
    for file in described["files"]:
        file["group_rows"] = file["rows"]
    (old / "dataset.json").write_text(json.dumps(described))
    flags = ["--data", f"parquet:{old}", "--lambdas", "1e6,1e7"]
    metrics = run_main(serial.main, tmp_path / "run", *flags)
    assert all("<img" not in figure for figure in mistakes(tmp_path / "run"))
    assert "thumbnails" not in capsys.readouterr().err
    # one of its files is lost, and made again with thumbnails
    lost = max((old / "images").glob("test-*"))
    n_lost = pq.ParquetFile(lost).metadata.num_rows
    lost.unlink()
    assert ingest.main(["digits", str(old), "--quiet"]) == 0
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in (old / "images").iterdir()) == 1797
    again = run_main(serial.main, tmp_path / "again", *flags)
    assert again["moments_sha256"] == metrics["moments_sha256"]
    assert again["test_accuracy"] == metrics["test_accuracy"]
    assert n_lost
    assert any("<img" in figure for figure in mistakes(tmp_path / "again"))


@pytest.mark.parametrize("more", [[], ["--features", SPEC]])
def test_an_ingest_goes_on_with_the_map_that_a_killed_one_left(
    spark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    table = tmp_path / "table"
    assert ingest.main(["digits", str(table), "--features", SPEC, "--quiet"]) == 0
    before = {path.name for path in (table / "images").iterdir()}
    for name in ("dataset.json", f"images/{min(before)}"):
        (table / name).unlink()
    assert ingest.main(["digits", str(table), *more]) == 0
    assert f"features {SPEC}, by the map that {table} has already" in capsys.readouterr().out
    assert len(before & {path.name for path in (table / "images").iterdir()}) == len(before) - 1
    described = json.loads((table / "dataset.json").read_text())
    assert described["features"]["spec"] == SPEC
    assert sum(described["images"].values()) == 1797
    assert f"60 features, <code>{SPEC}</code>, of images of 8×8×1" in (table / "report.html").read_text()


def test_a_model_tells_features_from_images_of_one_pixel(spark: Any, tmp_path: Path) -> None:
    """Images of 1×1×3 and three features have the same shape."""
    rng = np.random.default_rng(5)
    for label, mean in (("dark", 60), ("light", 190)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(30):
            colour = tuple(int(value) for value in rng.normal(mean, 20, 3).clip(0, 255))
            Image.new("RGB", (1, 1), colour).save(tmp_path / "images" / label / f"{i}.png")
    images, table = f"folder:{tmp_path / 'images'}", tmp_path / "table"
    assert ingest.main([images, str(table), "--features", "random:3", "--quiet"]) == 0
    run_main(serial.main, tmp_path / "run", "--data", f"parquet:{table}", "--lambdas", "1")
    rows = []
    for name, data in (("images", images), ("stored", f"parquet:{table}")):
        flags = ["--model", str(tmp_path / "run"), "--data", data, "--format", "csv", "--scores"]
        run_main(predict.main, tmp_path / f"predicted-{name}", *flags)
        rows.append(sorted((tmp_path / f"predicted-{name}" / "predictions.csv").read_text().splitlines()))
    assert rows[0] == rows[1]


def test_a_map_can_be_taken_from_a_table(tables: Path, tmp_path: Path) -> None:
    flags = ["--data", f"parquet:{tables / 'pixels'}", "--lambdas", "0.1,10"]
    metrics = run_main(serial.main, tmp_path / "run", *flags, "--features", f"from:{tables / 'stored'}")
    assert metrics["moments_sha256"] == metrics_of(tables / "run")["moments_sha256"]
    with pytest.raises(InputError, match="a table of images, which has no map"):
        run_main(serial.main, tmp_path / "a", *flags, "--features", f"from:{tables / 'pixels'}")
