from __future__ import annotations

import csv
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.data.catalogue import Skipped
from common.data.decode import PixelFormat
from common.data.images import Block
from common.data.storage import Storage
from common.predict import predictions as prediction
from common.predict.predictions import RowFormat, predictions_csv, write_predictions
from common.ridge.model import RidgeModel

RNG = np.random.default_rng(10)
NAMES = ("ash", 'be"ech', "żółw,1", "oak")
CLASS_MAP = np.arange(4)


def a_model() -> RidgeModel:
    return RidgeModel(RNG.normal(size=(12, 4)), RNG.normal(size=4), NAMES, (4, 3, 1), PixelFormat(), 1.0, "sum")


def a_block(n: int, start: int = 0, skipped: int = 0) -> Block:
    names = [f"new/{i:04d}.png" for i in range(start, start + n)]
    bad = [Skipped(f"bad{i}.png", "not an image") for i in range(skipped)]
    return Block(
        RNG.integers(0, 256, (n, 4, 3, 1), np.uint8), RNG.integers(0, 4, n), np.zeros(n, np.int16), names, bad
    )


def scores_of(model: RidgeModel, block: Block) -> np.ndarray:
    return block.pixels.reshape(len(block.pixels), 12) / 255 @ model.weights + model.intercept


def test_one_row_per_image_with_the_best_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "GROUP_ROWS", 60)
    model, blocks = a_model(), [a_block(50), a_block(0, 50, skipped=2), a_block(30, 50, skipped=1)]
    summary = write_predictions(Storage.at(str(tmp_path)), 3, model, RowFormat(), blocks, CLASS_MAP)
    read = pq.read_table(tmp_path / "predictions" / "part-00003.parquet")
    assert read.column_names == ["name", "predicted", "error"]
    assert summary.n == len(read) == 83
    assert summary.n_skipped == 3
    best = np.concatenate([scores_of(model, block).argmax(axis=1) for block in blocks])
    truth = np.concatenate([block.labels for block in blocks])
    rows = {row["name"]: row for row in read.to_pylist()}
    assert [rows[f"new/{i:04d}.png"]["predicted"] for i in range(80)] == [NAMES[c] for c in best]
    assert rows["bad0.png"]["predicted"] is None
    assert rows["bad0.png"]["error"] == "not an image"
    assert sum(row["error"] is not None for row in rows.values()) == 2  # bad0.png is there twice
    assert summary.predicted.tolist() == np.bincount(best, minlength=4).tolist()
    assert summary.confusion.accuracy() == np.mean(best == truth)
    margins = np.concatenate([np.diff(np.sort(scores_of(model, block)), axis=1)[:, -1] for block in blocks])
    assert [image.name for image in summary.unsure] == [f"new/{i:04d}.png" for i in np.argsort(margins)[:24]]


def test_the_best_classes_with_their_scores(tmp_path: Path) -> None:
    model, block = a_model(), a_block(40)
    write_predictions(Storage.at(str(tmp_path)), 0, model, RowFormat(3, scores=True), [block], CLASS_MAP)
    read = pq.read_table(tmp_path / "predictions" / "part-00000.parquet").to_pydict()
    assert list(read) == [
        "name",
        "predicted",
        "score",
        "predicted_2",
        "score_2",
        "predicted_3",
        "score_3",
        "error",
    ]
    scores = scores_of(model, block)
    order = np.argsort(-scores, axis=1)
    for rank, suffix in enumerate(("", "_2", "_3")):
        assert read[f"predicted{suffix}"] == [NAMES[c] for c in order[:, rank]]
        np.testing.assert_allclose(read[f"score{suffix}"], -np.sort(-scores, axis=1)[:, rank], rtol=1e-12)


def test_one_csv_file_in_the_order_of_the_parts(tmp_path: Path) -> None:
    model, storage = a_model(), Storage.at(str(tmp_path))
    for part, block in enumerate([a_block(30), a_block(20, 30)]):
        write_predictions(storage, part, model, RowFormat(), [block], CLASS_MAP)
    assert predictions_csv(storage, 0) == "predictions.csv"
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["Id", "Predicted"]
    assert [row[0] for row in rows] == [f"new/{i:04d}.png" for i in range(50)]
    assert {row[1] for row in rows} <= set(NAMES)


def test_errors_are_rows_of_the_csv_file_too(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    summary = write_predictions(
        storage, 0, a_model(), RowFormat(2, scores=True), [a_block(3, skipped=1)], CLASS_MAP
    )
    predictions_csv(storage, summary.n_skipped)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["Id", "Predicted", "Score", "Predicted2", "Score2", "Error"]
    assert len(rows) == 4
    assert rows[3] == {
        "Id": "bad0.png",
        "Predicted": "",
        "Score": "",
        "Predicted2": "",
        "Score2": "",
        "Error": "not an image",
    }
    assert rows[0]["Error"] == ""


def test_images_without_a_class_of_the_model_have_no_part_in_the_accuracy(tmp_path: Path) -> None:
    model, block = a_model(), a_block(60)
    labels = block.labels.copy()
    labels[:10] = -1  # their class is not known
    class_map = np.array([2, -1, 0, 1])  # the model lacks the second class of the data
    summary = write_predictions(
        Storage.at(str(tmp_path)), 0, model, RowFormat(), [block._replace(labels=labels)], class_map
    )
    scored = np.flatnonzero((labels >= 0) & (labels != 1))
    best = scores_of(model, block).argmax(axis=1)
    assert summary.confusion.n == len(scored)
    assert summary.confusion.accuracy() == np.mean(best[scored] == class_map[labels[scored]])


def test_summaries_of_parts_add_up_to_the_summary_of_the_whole(tmp_path: Path) -> None:
    model, blocks = a_model(), [a_block(30 + i, 100 * i, skipped=30) for i in range(4)]
    storage = Storage.at(str(tmp_path))
    whole = write_predictions(storage, 0, model, RowFormat(), blocks, CLASS_MAP)
    parts = reduce(
        add, [write_predictions(storage, i, model, RowFormat(), [b], CLASS_MAP) for i, b in enumerate(blocks)]
    )
    assert parts.n == whole.n == 30 * 4 + 6 + 120
    assert parts.predicted.tolist() == whole.predicted.tolist()
    assert [image.name for image in parts.unsure] == [image.name for image in whole.unsure]
    assert parts.confusion.counts.tolist() == whole.confusion.counts.tolist()
    assert len(parts.skipped) == 50
