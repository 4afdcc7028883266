"""Predictions for any number of images: rows to write, and a summary whose size is bounded."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.arrays import Floats, Labels, Pixels, Singles
from common.atomic import readable
from common.data.catalogue import MOST_SKIPPED, Skipped
from common.data.images import Block, readable_blocks
from common.data.storage import Storage, writing_to
from common.errors import UnusableImagesError
from common.evaluate.metrics import Confusion
from common.ridge.model import RidgeModel

MOST_UNSURE = 24
"""Images that a summary keeps because their two best classes were close, at most."""

PREDICTIONS = "predictions"
"""The folder of Parquet files, and the name of the CSV file without its suffix."""

GROUP_ROWS = 1 << 16
"""Rows per row group of a Parquet file."""


class Unsure(NamedTuple):
    """An image whose two best classes were close.

    Attributes:
        margin: the best score minus the second best.
        name: name of the image.
        predicted: the class with the best score.
        pixels: uint8 (height, width, channels).
    """

    margin: float
    name: str
    predicted: int
    pixels: Pixels


@dataclass(frozen=True)
class Summary:
    """A summary of predictions. Summaries of disjoint sets of images can be added.

    Attributes:
        predicted: int64 (n_classes,), how often each class was predicted.
        n_skipped: the number of skipped images, which have no scores.
        skipped: at most MOST_SKIPPED of the skipped images.
        unsure: the images whose two best classes were closest, at most MOST_UNSURE.
        confusion: confusion matrix of the images whose class is known.
        ignored: the number of files beside the images that are none, by kind.
    """

    predicted: Labels
    n_skipped: int
    skipped: list[Skipped]
    unsure: list[Unsure]
    confusion: Confusion
    ignored: Mapping[str, int] = field(default_factory=dict)

    def others(self) -> str:
        """Return what people should know of the images whose class is not known; empty if there are none."""
        n = int(self.predicted.sum()) - self.confusion.n
        return f"; {n:,} others are of classes that the model does not know, or of none that is known" if n else ""

    @classmethod
    def empty(cls, n_classes: int) -> Summary:
        """Return an empty summary."""
        none = np.empty(0, np.int64)
        return cls(np.zeros(n_classes, np.int64), 0, [], [], Confusion(n_classes, none, none))

    @classmethod
    def of(cls, predicted: Labels, truth: Labels, n_classes: int) -> Summary:
        """Summarise predicted and true classes, int64 (n,) each; the true class is -1 where it is not known."""
        known = truth >= 0
        counts = np.bincount(predicted, minlength=n_classes)
        return cls(counts, 0, [], [], Confusion.of(predicted[known], truth[known], n_classes))

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.predicted + other.predicted,
            self.n_skipped + other.n_skipped,
            (self.skipped + other.skipped)[:MOST_SKIPPED],
            heapq.nsmallest(MOST_UNSURE, self.unsure + other.unsure, key=lambda image: image[:2]),
            self.confusion + other.confusion,
            {**self.ignored, **other.ignored},
        )

    @property
    def n(self) -> int:
        """The number of rows, one per image."""
        return int(self.predicted.sum()) + self.n_skipped


@dataclass(frozen=True)
class RowFormat:
    """The columns of a prediction row.

    Attributes:
        top: the number of classes, best first.
        scores: whether each class has its score beside it.
    """

    top: int = 1
    scores: bool = False

    def schema(self) -> pa.Schema:
        """Return the columns: name, predicted, score, predicted_2, score_2, ..., error."""
        fields = [pa.field("name", pa.string())]
        for rank in range(1, self.top + 1):
            suffix = "" if rank == 1 else f"_{rank}"
            fields.append(pa.field(f"predicted{suffix}", pa.dictionary(pa.int32(), pa.string())))
            if self.scores:
                fields.append(pa.field(f"score{suffix}", pa.float64()))
        return pa.schema([*fields, pa.field("error", pa.string())])


def write_predictions(
    storage: Storage,
    part: int,
    model: RidgeModel,
    row_format: RowFormat,
    blocks: Iterable[Block],
    class_map: Labels,
) -> Summary:
    """Score images and write a Parquet file of predictions, block by block.

    Args:
        storage: location of the run folder.
        part: number of the file.
        model: scores the images.
        row_format: columns of a row.
        blocks: images with their names.
        class_map: int64 (n_labels,), the model's class for each label of the images, -1 where it has none. An
            image whose class is not known has a label below 0.

    Raises:
        InputError: images cannot be read.
        RunError: predictions cannot be written.
    """
    summary = Summary.empty(len(model.class_names))
    schema = row_format.schema()
    names = text_array(model.classes.written)
    with writing_to(storage), storage.writing(PREDICTIONS) as file:
        file.name = f"{PREDICTIONS}/part-{part:05d}.parquet"
        with pq.ParquetWriter(
            file.stream, schema, compression="lz4", use_dictionary=_repeating(schema), write_statistics=False
        ) as writer:
            waiting: list[pa.Table] = []
            for read in readable_blocks(blocks):
                block, (top, scores, margins) = _scored(model, read, row_format)
                errors = pa.nulls(len(top), pa.string())
                waiting.append(rows_table(schema, names, text_array(block.names or ()), top, scores, errors))
                if block.skipped:
                    ids, errors = (text_array(column) for column in zip(*block.skipped, strict=True))
                    waiting.append(rows_table(schema, names, ids, *empty_rows(len(ids), row_format), errors))
                if sum(map(len, waiting)) >= GROUP_ROWS:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
                summary += _summary(block, top[:, 0], margins, class_map, len(model.class_names))
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
    return summary


def _repeating(schema: pa.Schema) -> list[str]:
    """Return the columns whose values repeat and are worth a dictionary; names and scores hardly ever do."""
    return [field.name for field in schema if field.name not in ("name", "error") and field.type != pa.float64()]


class BestClasses(NamedTuple):
    """The best classes of some images.

    Attributes:
        top: int64 (n, top), the best classes, best first.
        scores: float32 or float64 (n, top), their scores, or None if the rows have no scores.
        margins: float32 or float64 (n,), how far the best class is ahead of the next.
    """

    top: Labels
    scores: Singles | Floats | None
    margins: Singles | Floats


def _scored(model: RidgeModel, block: Block, row_format: RowFormat) -> tuple[Block, BestClasses]:
    """Score the images of a block of which the model's features can be computed; the others become skipped."""
    while True:
        try:
            return block, best_classes(model, block.pixels, row_format)
        except UnusableImagesError as error:
            block = block.without(error.rows, error.reason)


def best_classes(model: RidgeModel, pixels: Pixels, row_format: RowFormat) -> BestClasses:
    """Score images.

    Args:
        model: scores them.
        pixels: uint8 (n, height, width, channels).
        row_format: columns of a row.

    Raises:
        UnusableImagesError: the model's features cannot be computed of some.
    """
    if row_format.top == 1 and not row_format.scores:
        classes, margins = model.best_classes(pixels)
        return BestClasses(classes[:, None], None, margins)
    n_classes = len(model.class_names)
    top = np.empty((len(pixels), row_format.top), np.int64)
    best = np.empty(top.shape)
    margins = np.empty(len(pixels))
    for rows, scores in model.score_blocks(pixels):
        order = np.argsort(-scores, axis=1, kind="stable")[:, : max(2, row_format.top)]
        ordered = np.take_along_axis(scores, order, axis=1)
        top[rows], best[rows] = order[:, : row_format.top], ordered[:, : row_format.top]
        margins[rows] = ordered[:, 0] - ordered[:, min(1, n_classes - 1)]
    return BestClasses(top, best if row_format.scores else None, margins)


def text_array(texts: Sequence[object]) -> pa.Array:
    """Return texts as an Arrow array of strings; None becomes null."""
    if isinstance(texts, pa.Array):
        return texts
    return pa.array([None if text is None else readable(str(text)) for text in texts], pa.string())


def empty_rows(n: int, row_format: RowFormat) -> tuple[Labels, Floats | None]:
    """Return classes and scores of skipped images: -1 and NaN (or no scores), (n, top) each."""
    shape = (n, row_format.top)
    return np.full(shape, -1), np.full(shape, np.nan) if row_format.scores else None


def rows_table(
    schema: pa.Schema,
    names: pa.Array,
    ids: pa.Array,
    top: Labels,
    scores: Floats | Singles | None,
    errors: pa.Array,
) -> pa.Table:
    """Return predictions as an Arrow table.

    Args:
        schema: schema of the row format.
        names: names of the classes, strings (n_classes,).
        ids: names of the images, strings (n,).
        top: int64 (n, top), the best classes of each image; -1 for skipped images.
        scores: (n, top) or None.
        errors: why an image was skipped, strings (n,).
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


def _summary(
    block: Block, predicted: Labels, margins: Singles | Floats, class_map: Labels, n_classes: int
) -> Summary:
    """Summarise the predictions of a block; the arguments are those of `write_predictions` and `Summary.of`."""
    truth = np.full(len(predicted), -1)
    if len(class_map):
        truth = np.where(block.labels >= 0, class_map[block.labels], -1)
    few = min(MOST_UNSURE, len(margins))
    closest = np.argpartition(margins, few - 1)[:few] if few else ()
    names = block.names or ()
    summary = Summary.of(predicted, truth, n_classes)
    unsure = [Unsure(float(margins[i]), str(names[i]), int(predicted[i]), block.pixels[i].copy()) for i in closest]
    return replace(summary, n_skipped=len(block.skipped), skipped=block.skipped[:MOST_SKIPPED], unsure=unsure)


def predictions_csv(storage: Storage, n_skipped: int) -> str:
    """Replace all parts by one CSV file with columns Id, Predicted and what else they have, in their order.

    The column Error exists only if there are errors. Without errors, the file is what contests ask for.

    Returns:
        The name of the file in the storage.
    """
    with storage.writing("") as file:
        file.name = f"{PREDICTIONS}.csv"
        text = io.TextIOWrapper(file.stream, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        title = True
        for part in storage.names(PREDICTIONS):
            with pq.ParquetFile(storage.open(part)) as opened:
                for batch in opened.iter_batches():
                    kept = batch if n_skipped else batch.drop_columns("error")
                    if title:
                        writer.writerow(map(column_title, kept.schema.names))
                        title = False
                    writer.writerows(zip(*(column.to_pylist() for column in kept.columns), strict=True))
        text.flush()
        text.detach()
    storage.delete_folder(PREDICTIONS)
    return file.name


def column_title(column: str) -> str:
    """Return the title of a column in CSV: Id for name, Predicted2 for predicted_2."""
    return "Id" if column == "name" else column.replace("_", "").capitalize()
