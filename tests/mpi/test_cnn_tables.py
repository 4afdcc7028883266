"""Training on a table compared with training on a folder of the same images, on every number of ranks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mpi4py import MPI

from common.data.decode import PixelFormat
from common.data.table import rows
from common.errors import InputError
from common.nets.checkpoints import LAST, Checkpoint
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.training import training_run
from mpi_jobs.training.training_run import TrainingRun
from tests.support.images import write_images
from tests.support.tables import make_table, split_as

SIDE = 8
IMAGE_MIB = (SIDE * SIDE * 3 + 1) / 2**20
"""Bytes of the cache per image: its pixels, and one that is set when they are there."""

SAME = ("loss", "accuracy", "validation_accuracy", "validation_top5", "macro_f1", "learning_rate")


class Made(NamedTuple):
    """Folders that rank 0 has made and all ranks see: a table, the same images split as it is, and runs."""

    table: Path
    images: Path
    runs: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    def make() -> Made:
        folder = tmp_path_factory.mktemp("tables")
        images = write_images(folder / "images")
        # as train_cnn.py decodes the files of a folder
        table = make_table(images, folder / "table", PixelFormat((SIDE, SIDE), crop=True))
        replace(table, quarantined=3).save()
        return Made(folder / "table", split_as(folder / "table", images, folder / "split"), folder)

    return World(MPI.COMM_WORLD).at_root(make)


def train(world: World, out: Path, *flags: str) -> tuple[TrainingRun, Checkpoint]:
    """Train for two epochs, test, and return the run and its last checkpoint."""
    always = [
        "--epochs",
        "2",
        "--batch",
        "4",
        "--quiet",
        "--device",
        "cpu",
        "--augment",
        "crop,flip",
        "--threads",
        "1",
    ]
    made = TrainingRun(world, [*always, *flags, "--out", str(out)])
    for epoch in made.epochs():
        made.train(epoch)
        made.validate()
        made.end_epoch()
    made.test()
    made._loader.close()
    world.meet()
    return made, Checkpoint.load(out / LAST)


@pytest.fixture(scope="module")
def of_folder(made: Made) -> tuple[TrainingRun, Checkpoint]:
    """A run on the folder, and its last checkpoint."""
    data = ["--data", f"folder:{made.images}", "--image-size", str(SIDE)]
    return train(World(MPI.COMM_WORLD), made.runs / "folder", *data)


@pytest.mark.parametrize("slots", [None, 20, 0], ids=["all", "some", "none"])
def test_a_table_trains_what_the_folder_of_its_images_does(
    world: World,
    made: Made,
    of_folder: tuple[TrainingRun, Checkpoint],
    slots: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The network is the same whether or not its images fit into the cache."""
    monkeypatch.setattr(training_run, "TOGETHER_BYTES", 20 * SIDE * SIDE * 3)  # some batches of a rank
    folder, truth = of_folder
    cache = [] if slots is None else ["--cache", str(slots * IMAGE_MIB)]
    data = ["--data", f"parquet:{made.table}", "--cache", "1", *cache]
    table, found = train(world, made.runs / f"table-{slots}", *data)
    for kind in ("parameters", "buffers"):
        assert getattr(found, kind).keys() == getattr(truth, kind).keys()
        for name, value in getattr(truth, kind).items():
            assert torch.equal(getattr(found, kind)[name], value), name
    for ours, theirs in zip(found.progress.history, truth.progress.history, strict=True):
        assert [ours[key] for key in SAME] == [theirs[key] for key in SAME]
        # summed in another order
        assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-5)
    assert found.preprocessing == truth.preprocessing
    again = TrainingRun(world, ["--resume", str(made.runs / f"table-{slots}"), "--epochs", "3", "--quiet"])
    assert list(again.epochs()) == [2]
    again._loader.close()
    if world.is_root:
        assert table._tested is not None
        assert folder._tested is not None
        assert table._tested.loss == pytest.approx(folder._tested.loss, rel=1e-5)
        assert (table.plan.n_test, table.plan.n_quarantined) == (folder.plan.n_test, 3)
        n = table.plan.n_train + table.plan.n_validation
        warned = capfd.readouterr().err
        assert ("warning: no room for" in warned) == (slots is not None)
        assert slots is None or f"no room for {n - slots} of {n} images in --cache" in warned


def test_each_row_group_is_read_by_one_rank_and_once(world: World, made: Made) -> None:
    rows._row_group.cache_clear()
    run = TrainingRun(world, ["--data", f"parquet:{made.table}", "--quiet", "--out", str(made.runs / "read")])
    next(run.epochs())
    read = world.all_gather(rows._row_group.cache_info().misses)
    groups = len(run.plan.reader.part.ranges)  # type: ignore[attr-defined]
    assert sum(read) == groups > 4
    assert max(read) - min(read) <= 1
    assert run._loader.cache is not None
    run._loader.cache.begin_pass()
    assert run._loader.cache._available.all()
    run._loader.close()
    world.meet()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--image-size", "16"],
            "--image-size 16: the images of parquet:TABLE are 8x8; leave it out, or ingest with",
        ),
        (["--grey"], "--grey: the images of parquet:TABLE are in colour"),
        (
            ["--test-data", "digits"],
            "--test-data: a table has test images of its own; predict_cnn.py scores others",
        ),
        (["--validation", "0.0001"], "leaves no validation images of"),
        (
            ["--data", "parquet:TABLE-of-features"],
            "it holds the features patches:16 and no pixels; ridge jobs fit",
        ),
        (["--data", "parquet:nowhere"], "no dataset.json there"),
    ],
)
def test_wrong_flags_for_a_table_are_told_on_every_rank(
    world: World, made: Made, flags: list[str], message: str
) -> None:
    def describe_features() -> None:
        folder = made.runs / "table-of-features"
        if not folder.exists():
            folder.mkdir()
            text = (made.table / "dataset.json").read_text()
            (folder / "dataset.json").write_text(text.replace("{", '{"features": {"spec": "patches:16"},', 1))

    world.at_root(describe_features)
    words = [word.replace("TABLE", str(made.table)) for word in ["--data", "parquet:TABLE", *flags, "--quiet"]]
    with pytest.raises(AgreedError, match=re.escape(message.replace("TABLE", str(made.table)))) as caught:
        TrainingRun(world, [*words, "--out", str(made.runs / "wrong")])
    assert caught.value.exit_code == InputError.exit_code
    assert not (made.runs / "wrong").exists()
