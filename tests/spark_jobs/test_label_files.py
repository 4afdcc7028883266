"""Images with a label file and groups, on Spark: one answer, and tables that split no group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.data.sources import open_table
from common.data.splits import FoldRule
from common.data.table.reading import TableImages
from common.data.table.table import Table
from common.errors import InputError
from spark_jobs import gram, ingest, serial
from tests.support.images import write_images
from tests.support.jobs import AGREED, run_main

pytestmark = pytest.mark.spark

JOBS = {"serial": serial.main, "gram": gram.main}


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags that name 60 images in one folder, in thirty pairs."""
    root = tmp_path_factory.mktemp("labelled")
    write_images(root / "by-class")
    (root / "flat").mkdir()
    rows = []
    for number, path in enumerate(sorted((root / "by-class").rglob("*.png"))):
        path.rename(root / "flat" / f"{number}.png")
        rows.append(f"{number};{path.parent.name};p{number % 30}")
    (root / "labels.csv").write_text("\n".join(["id;class;patient", *rows]))
    return [f"folder:{root / 'flat'}", "--labels", str(root / "labels.csv"), "--group-column", "patient"]


def table_at(folder: Path) -> Table:
    table = open_table(f"parquet:{folder}")
    assert table is not None
    return table


def test_jobs_agree(spark: Any, tmp_path: Path, flags: list[str]) -> None:
    fit = ["--folds", "4", "--lambdas", "1,10"]
    one, other = (run_main(main, tmp_path / name, "--data", *flags, *fit) for name, main in JOBS.items())
    assert {key: one[key] for key in AGREED} == {key: other[key] for key in AGREED}
    assert one["test_accuracy"] == 1
    assert one["images"]["test"] % 2 == one["images"]["validation"] % 2 == 0  # whole groups


def test_a_table_splits_no_group(
    spark: Any, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest.main([*flags, str(tmp_path / "t"), "--test", "0.3", "--quiet"]) == 0
    table = table_at(tmp_path / "t")
    assert table.grouped
    where: dict[int, set[tuple[str, int]]] = {}
    for split in ("train", "test"):
        images = TableImages(table, FoldRule(5, 0.2), split).load(names=True)
        for name, fold in zip(images.names or (), images.folds.tolist(), strict=True):
            where.setdefault(int(str(name).removesuffix(".png")) % 30, set()).add((split, fold))
    assert len(where) == 30
    assert all(len(places) == 1 for places in where.values())
    assert len(set.union(*where.values())) > 4
    metrics = run_main(gram.main, tmp_path / "run", "--data", f"parquet:{tmp_path / 't'}", "--lambdas", "1")
    assert sum(metrics["images"].values()) == 60
    other = Path(flags[2]).with_name("other.csv")
    other.write_text(Path(flags[2]).read_text().replace("ash", "beech", 2))
    assert ingest.main([flags[0], "--labels", str(other), *flags[3:], str(tmp_path / "t")]) == 0
    assert "2 images have another class than in the table" in capsys.readouterr().err
    assert table_at(tmp_path / "t").files == table.files
    with pytest.raises(InputError, match="its images have groups, and these have no groups"):
        ingest.main([*flags[:3], str(tmp_path / "t"), "--quiet"])
    with pytest.raises(InputError, match="--labels: a table has the classes of its images"):
        gram.main(["--data", f"parquet:{tmp_path / 't'}", "--labels", flags[2], "--quiet"])
    with pytest.raises(InputError, match="--validation-data: a table has validation images of its own"):
        gram.main(["--data", f"parquet:{tmp_path / 't'}", "--validation-data", "digits", "--quiet"])


def test_groups_are_for_label_files(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(InputError, match="--group-column who: a column of a label file; name that by --labels"):
        ingest.main([flags[0], str(tmp_path / "t"), "--group-column", "who", "--quiet"])
    assert not list(tmp_path.iterdir())
