"""Images of a table that count no more: a fit without them is one that never had them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.sources import open_table
from common.data.splits import FoldRule
from common.data.table.reading import TableImages
from common.errors import InputError
from common.ridge.model import RidgeModel
from spark_jobs import gram, ingest
from tests.support.images import write_images
from tests.support.jobs import AGREED, run_main

pytestmark = pytest.mark.spark

FLAGS = ("--lambdas", "1,100", "--folds", "3")


def training_names(table: Path) -> list[str]:
    opened = open_table(f"parquet:{table}")
    assert opened is not None
    blocks = TableImages(opened, FoldRule(None, 0.2), "train").parts(1)[0].blocks(names=True)
    return [str(name) for block in blocks for name in block.names or ()]


@pytest.fixture(scope="module")
def tables(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a table of all images, a table without some, and the names of these."""
    folder = tmp_path_factory.mktemp("forgetting")
    images = write_images(folder / "images")
    ingest.main([f"folder:{images}", str(folder / "all"), "--grey", "--quiet"])
    gone = training_names(folder / "all")[::4]
    assert len({name.partition("/")[0] for name in gone}) > 1
    for name in gone:
        (images / name).unlink()
    ingest.main([f"folder:{images}", str(folder / "rest"), "--grey", "--quiet"])
    (folder / "gone.txt").write_text("\n".join(gone))
    return folder, gone


def fit(folder: Path, table: str, out: Path, *flags: str | Path, rule: Sequence[str] = FLAGS) -> dict[str, Any]:
    return run_main(gram.main, out, "--data", f"parquet:{folder / table}", *rule, *map(str, flags))


@pytest.mark.parametrize("rule", [FLAGS, ("--lambdas", "1,100")])
@pytest.mark.parametrize("known", [False, True])
def test_a_fit_without_images_is_one_that_never_had_them(
    tables: tuple[Path, list[str]], tmp_path: Path, known: bool, rule: Sequence[str]
) -> None:
    folder, gone = tables
    expected = fit(folder, "rest", tmp_path / "never", rule=rule)
    flags: list[str | Path] = ["--forget", folder / "gone.txt"]
    if known:
        before = fit(folder, "all", tmp_path / "before", "--save-moments", tmp_path / "all.npz", rule=rule)
        assert before["moments_sha256"] != expected["moments_sha256"]
        flags += ["--add-moments", tmp_path / "all.npz"]
    found = fit(folder, "all", tmp_path / "forgot", *flags, "--save-moments", tmp_path / "rest.npz", rule=rule)
    assert found["forgotten"] == len(gone)
    for key in AGREED:
        assert found[key] == expected[key], key
    one, other = RidgeModel.load(tmp_path / "forgot"), RidgeModel.load(tmp_path / "never")
    assert np.array_equal(one.weights, other.weights)


def test_saved_moments_know_what_they_have_forgotten(tables: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Forget twice, the second time with files that have forgotten some already; and never more than once."""
    folder, gone = tables
    some = tmp_path / "some.txt"
    some.write_text("\n".join(gone[1:]))
    expected = fit(folder, "rest", tmp_path / "never")
    fit(folder, "all", tmp_path / "a", "--forget", some, "--save-moments", tmp_path / "some.npz")
    everything = ["--forget", folder / "gone.txt"]
    found = fit(folder, "all", tmp_path / "b", *everything, "--add-moments", tmp_path / "some.npz")
    assert found["moments_sha256"] == expected["moments_sha256"]
    again = ["--add-moments", tmp_path / "some.npz", "--save-moments", tmp_path / "all.npz"]
    fit(folder, "all", tmp_path / "c", *everything, *again)
    found = fit(folder, "all", tmp_path / "d", *everything, "--add-moments", tmp_path / "all.npz")
    assert found["moments_sha256"] == expected["moments_sha256"]
    with pytest.raises(InputError, match=r"images of this table were forgotten in them, such as .*; name these"):
        fit(folder, "all", tmp_path / "e", "--add-moments", tmp_path / "all.npz")
    flags = [*everything, "--subtract-moments", tmp_path / "all.npz"]
    with pytest.raises(InputError, match="images forgotten, that --add-moments counts"):
        fit(folder, "all", tmp_path / "f", *flags)
    with pytest.raises(InputError, match="--subtract-moments of the same table do not go together"):
        fit(folder, "all", tmp_path / "g", *flags, "--add-moments", tmp_path / "all.npz")


@pytest.mark.parametrize(
    ("data", "text", "message"),
    [
        (
            "parquet:{}/all",
            "ash/00.png\nno/such.png\n",
            r"of 2 names are not among .*: .*no/such.png; mend",
        ),
        ("parquet:{}/all", "\n", "names no image"),
        ("folder:{}/images", "ash/00.png", "images of a table are forgotten by name, and --data is none"),
        ("parquet:{}/all --limit 9", "ash/00.png", "--forget and --limit do not go together"),
        ("parquet:{}/all --features random:900 --whole 1", "ash/00.png", "moments in tiles forget nothing"),
    ],
)
def test_what_cannot_be_forgotten_is_one_line(
    tables: tuple[Path, list[str]], tmp_path: Path, data: str, text: str, message: str
) -> None:
    (tmp_path / "names.txt").write_text(text)
    words = ["--data", *data.format(tables[0]).split(), "--forget", str(tmp_path / "names.txt")]
    words += ["--quiet", "--grey"]
    with pytest.raises(InputError, match=message):
        gram.main([*words, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
