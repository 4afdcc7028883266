"""Predictions for images without end: rows to write, and a summary that stays small."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.arrays import Floats, Labels, Pixels, Singles
from common.atomic import readable
from common.data.catalogue import MOST_SKIPPED, Skipped
from common.data.images import Block
from common.data.storage import Storage
from common.evaluate.metrics import Confusion
from common.ridge.model import RidgeModel

MOST_UNSURE = 24
PREDICTIONS = "predictions"

GROUP_ROWS = 1 << 16
"""Rows of a row group of predictions."""


class Unsure(NamedTuple):
    """An image whose two best classes were close.

    Attributes:
        margin: the best score minus the next.
        name: of the image.
        predicted: the class of the best.
        pixels: uint8 (height, width, channels).
    """

    margin: float
    name: str
    predicted: int
    pixels: Pixels


@dataclass(frozen=True)
class Summary:
    """What was predicted for some images; it adds up over disjoint ones.

    Attributes:
        predicted: int64 (n_classes,), how often each class.
        n_unusable: images that could not be scored.
        unusable: a few of them.
        unsure: those whose two best classes were closest.
        confusion: of the images whose class is known.
    """

    predicted: Labels
    n_unusable: int
    unusable: list[Skipped]
    unsure: list[Unsure]
    confusion: Confusion

    @classmethod
    def nothing(cls, n_classes: int) -> Summary:
        """That of no image."""
        none = np.empty(0, np.int64)
        return cls(np.zeros(n_classes, np.int64), 0, [], [], Confusion(n_classes, none, none))

    @classmethod
    def of(cls, predicted: Labels, truth: Labels, n_classes: int) -> Summary:
        """That of predicted and true classes, int64 (n,) each; the truth is -1 where nobody knows it."""
        known = truth >= 0
        counts = np.bincount(predicted, minlength=n_classes)
        return cls(counts, 0, [], [], Confusion.of(predicted[known], truth[known], n_classes))

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.predicted + other.predicted,
            self.n_unusable + other.n_unusable,
            (self.unusable + other.unusable)[:MOST_SKIPPED],
            heapq.nsmallest(MOST_UNSURE, self.unsure + other.unsure, key=lambda image: image[:2]),
            self.confusion + other.confusion,
        )

    @property
    def n(self) -> int:
        """How many rows there are, one an image."""
        return int(self.predicted.sum()) + self.n_unusable


@dataclass(frozen=True)
class RowFormat:
    """What a row says.

    Attributes:
        top: how many classes, best first.
        scores: whether with their scores.
    """

    top: int = 1
    scores: bool = False

    def schema(self) -> pa.Schema:
        """name, predicted, score, predicted_2, score_2, ..., error."""
        fields = [pa.field("name", pa.string())]
        for rank in range(1, self.top + 1):
            suffix = "" if rank == 1 else f"_{rank}"
            fields.append(pa.field(f"predicted{suffix}", pa.dictionary(pa.int32(), pa.string())))
            if self.scores:
                fields.append(pa.field(f"score{suffix}", pa.float64()))
        return pa.schema([*fields, pa.field("error", pa.string())])


def write_predictions(
    storage: Storage, part: int, model: RidgeModel, form: RowFormat, blocks: Iterable[Block], known: Labels
) -> Summary:
    """Score images and write a Parquet file of predictions, a block at a time.

    Args:
        storage: where.
        part: its number.
        model: scores.
        form: what a row says.
        blocks: images with their names.
        known: int64 (n_labels,), the model's class for each label of the images, -1 where it has none; a label
            below 0 is of an image whose class is not known.
    """
    summary = Summary.nothing(len(model.class_names))
    schema = form.schema()
    names = text_array(model.class_names)
    with storage.writing(PREDICTIONS) as file:
        file.name = f"{PREDICTIONS}/part-{part:05d}.parquet"
        with pq.ParquetWriter(
            file.stream, schema, compression="lz4", use_dictionary=_repeating(schema), write_statistics=False
        ) as writer:
            waiting: list[pa.Table] = []
            for block in blocks:
                top, scores, margins = _best(model, block.pixels, form)
                errors = pa.nulls(len(top), pa.string())
                waiting.append(rows_table(schema, names, text_array(block.names or ()), top, scores, errors))
                if block.skipped:
                    n = len(block.skipped)
                    ids, errors = (text_array(column) for column in zip(*block.skipped, strict=True))
                    waiting.append(rows_table(schema, names, ids, *empty_rows(n, form), errors))
                if sum(map(len, waiting)) >= GROUP_ROWS:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
                summary += _summary(block, top[:, 0], margins, known, len(model.class_names))
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
    return summary


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns worth a dictionary: names are all different, scores nearly so."""
    return [field.name for field in schema if field.name not in ("name", "error") and field.type != pa.float64()]


def _best(model: RidgeModel, pixels: Pixels, form: RowFormat) -> tuple[Labels, Floats | None, Floats]:
    """The best classes (n, top), their scores or None, and how far the best is ahead of the next (n,)."""
    if form.top == 1 and not form.scores:
        classes, margins = model.best_classes(pixels)
        return classes[:, None], None, margins
    n_classes = len(model.class_names)
    top = np.empty((len(pixels), form.top), np.int64)
    best = np.empty(top.shape)
    margins = np.empty(len(pixels))
    for rows, scores in model.score_blocks(pixels):
        order = np.argsort(-scores, axis=1, kind="stable")[:, : max(2, form.top)]
        found = np.take_along_axis(scores, order, axis=1)
        top[rows], best[rows] = order[:, : form.top], found[:, : form.top]
        margins[rows] = found[:, 0] - found[:, min(1, n_classes - 1)]
    return top, best if form.scores else None, margins


def text_array(texts: Sequence[object]) -> pa.Array:
    """Text as Arrow keeps it."""
    if isinstance(texts, pa.Array):
        return texts
    return pa.array([None if text is None else readable(str(text)) for text in texts], pa.string())


def empty_rows(n: int, form: RowFormat) -> tuple[Labels, Floats | None]:
    """No classes and no scores: -1 and NaN, (n, top) each."""
    return np.full((n, form.top), -1), np.full((n, form.top), np.nan) if form.scores else None


def rows_table(
    schema: pa.Schema,
    names: pa.Array,
    ids: pa.Array,
    top: Labels,
    scores: Floats | Singles | None,
    errors: pa.Array,
) -> pa.Table:
    """Predictions as a table.

    Args:
        schema: of RowFormat.
        names: text (n_classes,), what classes are called.
        ids: text (n,), what images are called.
        top: int64 (n, top), the best classes of each; -1 of an image that could not be used.
        scores: (n, top) or None.
        errors: text (n,), why an image could not be used.
    """
    columns: list[Any] = [ids]
    for rank in range(top.shape[1]):
        missing = top[:, rank] < 0
        columns.append(
            pa.DictionaryArray.from_arrays(pa.array(top[:, rank].astype(np.int32), mask=missing), names)
        )
        if scores is not None:
            columns.append(pa.array(scores[:, rank].astype(np.float64), mask=missing))
    return pa.table([*columns, errors], schema=schema)


def _summary(block: Block, predicted: Labels, margins: Floats, known: Labels, n_classes: int) -> Summary:
    truth = np.full(len(predicted), -1)
    if len(known):
        truth = np.where(block.labels >= 0, known[block.labels], -1)
    few = min(MOST_UNSURE, len(margins))
    closest = np.argpartition(margins, few - 1)[:few] if few else ()
    names = block.names or ()
    found = Summary.of(predicted, truth, n_classes)
    unsure = [Unsure(float(margins[i]), str(names[i]), int(predicted[i]), block.pixels[i].copy()) for i in closest]
    return replace(found, n_unusable=len(block.skipped), unusable=block.skipped[:MOST_SKIPPED], unsure=unsure)


def predictions_csv(storage: Storage, n_unusable: int) -> str:
    """One CSV file of all parts, in their order, in their place: Id, Predicted, and what else there is.

    There is a column Error only where there are errors, so that without any the file is what contests ask for.

    Returns:
        its name in the storage.
    """
    with storage.writing("") as file:
        file.name = f"{PREDICTIONS}.csv"
        text = io.TextIOWrapper(file.stream, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        title = True
        for part in storage.names(PREDICTIONS):
            with pq.ParquetFile(storage.open(part)) as opened:
                for batch in opened.iter_batches():
                    plain = batch if n_unusable else batch.drop_columns("error")
                    if title:
                        writer.writerow(map(column_title, plain.schema.names))
                        title = False
                    writer.writerows(zip(*(column.to_pylist() for column in plain.columns), strict=True))
        text.flush()
        text.detach()
    storage.delete_folder(PREDICTIONS)
    return file.name


def column_title(column: str) -> str:
    """Id for name, Predicted2 for predicted_2."""
    return "Id" if column == "name" else column.replace("_", "").capitalize()
