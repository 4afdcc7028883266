"""Files of predictions that grow while a run goes on, so that a killed run can be resumed where it stopped.

There is one row per image. CSV is a single file from the beginning; a kill leaves at most one incomplete row,
which is removed when the run is resumed. Parquet is written as parts, each of which is whole or absent, and which
become one file at the end. A skipped image has a row without a class; skipped.csv gives the reason.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.arrays import Floats, Labels, Singles
from common.atomic import readable, write_atomically, written_into
from common.data.catalogue import Skipped, write_skipped
from common.data.storage import PARTIAL
from common.errors import InputError
from common.predict.predictions import GROUP_ROWS, PREDICTIONS, RowFormat, column_title, rows_table, text_array

SKIPPED = "skipped.csv"
"""The file that lists skipped images."""
FORMATS = ("csv", "parquet")

FLUSH_S = 1.0
"""Seconds after which rows of CSV are written at the latest."""
PART_S = 30.0
"""Seconds after which rows of Parquet are written at the latest; it is longer, because each time makes a file."""

LONGEST_FIELD = 1 << 24
"""Characters of the longest id that is read; no path is nearly as long."""

MERGED = b"merged"
"""Key in the metadata of the merged file: the number of the first part that is not in it."""


class PredictionRows(NamedTuple):
    """Predictions of some images, in the order in which they are to be written.

    Attributes:
        ids: the names of the n images.
        top: int64 (n, top), their best classes, best first; -1 for skipped images.
        scores: (n, top), the scores of these classes, or None if the rows have no scores. CSV has six digits of
            float32, and all digits of float64.
        errors: n reasons; None for images that were not skipped.
    """

    ids: Sequence[str]
    top: Labels
    scores: Singles | Floats | None
    errors: Sequence[str | None]


Written = dict[str, list[int]]
"""By id, the best classes of the rows that are written already, the last row first; -1 for a skipped image."""


class PredictionFile(ABC):
    """The file of a run's predictions.

    Args:
        folder: the run folder.
        row_format: the columns of a row.
        class_ids: the names of the classes.
        flush_s: seconds after which rows are written at the latest.
    """

    def __init__(self, folder: Path, row_format: RowFormat, class_ids: Sequence[str], flush_s: float) -> None:
        self._folder, self._row_format = folder, row_format
        self._class_ids = [readable(name) for name in class_ids]
        self._flush_s = flush_s
        self._flushed = time.monotonic()
        self._skipped: IO[str] | None = None

    @staticmethod
    def of(kind: str, folder: Path, row_format: RowFormat, class_ids: Sequence[str]) -> PredictionFile:
        """Return the file of predictions in a run folder; `kind` is one of FORMATS."""
        return (CsvFile if kind == "csv" else ParquetFile)(folder, row_format, class_ids)

    @property
    @abstractmethod
    def path(self) -> Path:
        """The path of the predictions, once all are written."""

    def resume(self) -> Written:
        """Read what is written already, and remove what a kill left incomplete.

        Raises:
            InputError: the files are not predictions in this row format by this model.
            RunError: the folder cannot be written.
        """
        position = {name: number for number, name in enumerate(self._class_ids)} | {"": -1}
        written: Written = defaultdict(list)
        for name, predicted in self._readable_rows():
            if predicted not in position:
                raise InputError(f"{self._folder}: predicts {predicted!r}, which is no class of this model")
            written[name].append(position[predicted])
        for classes in written.values():
            classes.reverse()
        with written_into(self._folder):
            self._keep_reasons(written)
        return dict(written)

    @abstractmethod
    def _rows(self) -> Iterator[tuple[str, str]]:
        """Yield id and best class of every complete row; "" for no class."""

    def _readable_rows(self) -> Iterator[tuple[str, str]]:
        """Yield what `_rows` yields.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            yield from self._rows()
        except OSError as error:
            raise InputError(f"{self._folder}: cannot be read ({error.strerror or error}); mend that") from error

    def _keep_reasons(self, written: Written) -> None:
        """Remove from skipped.csv the images that have no row."""
        path = self._folder / SKIPPED
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            listed = [Skipped(*row) for row in csv.reader(file) if len(row) == len(Skipped._fields)][1:]
        left = Counter({name: classes.count(-1) for name, classes in written.items() if -1 in classes})
        kept = []
        for image in listed:
            if left[image.name]:
                left[image.name] -= 1
                kept.append(image)
        write_skipped(path, kept)

    def write(self, rows: PredictionRows) -> None:
        """Add rows.

        Raises:
            RunError: they cannot be written.
        """
        with written_into(self._folder):
            skipped = [
                Skipped(name, error)
                for name, error in zip(rows.ids, rows.errors, strict=True)
                if error is not None
            ]
            if skipped:
                # before the rows, so that no row lacks its reason: a reason without a row is removed on resuming
                self._write_skipped(skipped)
            self._write(rows)
            self.flush_if_due()

    def _write_skipped(self, skipped: Sequence[Skipped]) -> None:
        if self._skipped is None:
            path = self._folder / SKIPPED
            if not path.exists():
                write_skipped(path, [])
            self._skipped = path.open("a", encoding="utf-8", newline="", errors="backslashreplace")
        csv.writer(self._skipped).writerows(skipped)
        self._skipped.flush()

    @abstractmethod
    def _write(self, rows: PredictionRows) -> None:
        """Add rows to those that wait to be written."""

    def flush_if_due(self) -> None:
        """Write the rows that wait, if the last time was long enough ago.

        Raises:
            RunError: they cannot be written.
        """
        if time.monotonic() - self._flushed >= self._flush_s:
            with written_into(self._folder):
                self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        self._flush()
        self._flushed = time.monotonic()

    @abstractmethod
    def _flush(self) -> None:
        """Write the rows that wait."""

    def close(self) -> None:
        """Write the rows that wait, and finish the file.

        Raises:
            RunError: it cannot be written.
        """
        with written_into(self._folder):
            self.flush()
            if self._skipped is not None:
                self._skipped.close()
            self._close()

    @abstractmethod
    def _close(self) -> None:
        """Finish the file."""


class CsvFile(PredictionFile):
    """predictions.csv, with the columns Id, Predicted, and further ones by row format."""

    def __init__(self, folder: Path, row_format: RowFormat, class_ids: Sequence[str]) -> None:
        super().__init__(folder, row_format, class_ids, FLUSH_S)
        self._title = [column_title(name) for name in row_format.schema().names if name != "error"]
        self._file: IO[bytes] | None = None
        self._names = [*self._class_ids, ""]
        self._waiting = io.StringIO(newline="")

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._folder / f"{PREDICTIONS}.csv"

    def _rows(self) -> Iterator[tuple[str, str]]:
        if not self.path.exists():
            return
        whole = 0
        with self.path.open("rb") as file:
            lines = _Lines(file)
            csv.field_size_limit(LONGEST_FIELD)
            try:
                for row in csv.reader(lines):
                    if len(row) != len(self._title) or not lines.ended:
                        break
                    if not whole and row != self._title:
                        columns = f"its columns are {','.join(row)}, not {','.join(self._title)}"
                        raise InputError(f"{self.path}: {columns}")
                    if whole:
                        yield row[0], row[1]
                    whole = lines.read
            except csv.Error as error:
                raise InputError(f"{self.path}: no predictions ({error}) after {whole:,} bytes") from error
            cut = whole < lines.read or next(lines, None) is not None
        if cut or not whole:
            if not whole and self.path.stat().st_size > len(",".join(self._title)):
                raise InputError(f"{self.path}: no predictions with the columns {','.join(self._title)}")
            os.truncate(self.path, whole)

    def _write(self, rows: PredictionRows) -> None:
        columns: list[Sequence[str]] = [[readable(name) for name in rows.ids]]
        for rank in range(self._row_format.top):
            columns.append([self._names[c] for c in rows.top[:, rank].tolist()])
            if rows.scores is not None:
                text = "{!r}" if rows.scores.dtype == np.float64 else "{:.6g}"
                columns.append(["" if s != s else text.format(s) for s in rows.scores[:, rank].tolist()])
        # the writer does not quote a field for the sake of a \r, which readers take for the end of a line
        quoted = any("\r" in name for name in columns[0])
        writer = csv.writer(self._waiting, "unix" if quoted else "excel", lineterminator="\n")
        writer.writerows(zip(*columns, strict=True))

    def _flush(self) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
            if not self._file.tell():
                title = io.StringIO(newline="")
                csv.writer(title, lineterminator="\n").writerow(self._title)
                self._file.write(title.getvalue().encode())
        data = memoryview(self._waiting.getvalue().encode())
        self._waiting.seek(0)
        self._waiting.truncate()
        while data:  # the system takes whole rows at once, except when it is short of space
            data = data[self._file.write(data) :]

    def _close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()


class _Lines:
    """The lines of a file as text.

    Attributes:
        read: the number of bytes read so far.
        ended: True if the last line ended with a newline.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.read = 0
        self.ended = True

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.read += len(line)
        self.ended = line.endswith(b"\n")
        return line.decode(errors="replace")


class ParquetFile(PredictionFile):
    """predictions.parquet, with the columns name, predicted, further ones by row format, and error."""

    def __init__(self, folder: Path, row_format: RowFormat, class_ids: Sequence[str]) -> None:
        super().__init__(folder, row_format, class_ids, PART_S)
        self._schema = row_format.schema()
        self._names = text_array(self._class_ids)
        self._waiting: list[pa.Table] = []
        self._parts = folder / PREDICTIONS

    @property
    def path(self) -> Path:
        """The path of the merged file."""
        return self._folder / f"{PREDICTIONS}.parquet"

    def _merged(self) -> int:
        """Return the number of the first part that is not in the merged file."""
        if not self.path.exists():
            return 0
        return int((pq.read_schema(self.path).metadata or {}).get(MERGED, b"0"))

    def _written_files(self) -> list[Path]:
        """Return the files that hold rows, in the order of the rows."""
        merged = self._merged()
        parts = [path for path in sorted(self._parts.glob("part-*.parquet")) if _number(path) >= merged]
        return [self.path, *parts] if self.path.exists() else parts

    def _rows(self) -> Iterator[tuple[str, str]]:
        for partial in [*self._parts.glob(f".*{PARTIAL}"), *self._folder.glob(f".{self.path.name}.*{PARTIAL}")]:
            partial.unlink()
        for path in self._readable():
            try:
                with pq.ParquetFile(path) as file:
                    if file.schema_arrow.names != self._schema.names:
                        raise InputError(f"{path}: its columns are {', '.join(file.schema_arrow.names)}")
                    for batch in file.iter_batches(columns=["name", "predicted"]):
                        predicted = batch.column("predicted").to_pylist()
                        yield from zip(batch.column("name").to_pylist(), (c or "" for c in predicted), strict=True)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{path}: damaged ({str(error).splitlines()[0]})") from error

    def _readable(self) -> list[Path]:
        try:
            return self._written_files()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self.path}: damaged ({str(error).splitlines()[0]})") from error

    def _write(self, rows: PredictionRows) -> None:
        ids, errors = text_array(rows.ids), text_array(rows.errors)
        self._waiting.append(rows_table(self._schema, self._names, ids, rows.top, rows.scores, errors))
        if sum(map(len, self._waiting)) >= GROUP_ROWS:
            self.flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        self._parts.mkdir(exist_ok=True)
        number = max([self._merged(), *(1 + _number(path) for path in self._parts.glob("part-*.parquet"))])
        with write_atomically(self._parts / f"part-{number:08d}.parquet") as file:
            pq.write_table(pa.concat_tables(self._waiting), file, compression="lz4")
        self._waiting = []

    def _close(self) -> None:
        """Merge all parts into one file."""
        found = self._written_files()
        if found != [self.path]:
            merged = max([0, *(1 + _number(path) for path in found if path != self.path)])
            schema = self._schema.with_metadata({MERGED: str(merged).encode()})
            with (
                write_atomically(self.path) as file,
                pq.ParquetWriter(file, schema, compression="lz4") as writer,
            ):
                for path in found:
                    with pq.ParquetFile(path) as part:
                        for batch in part.iter_batches(GROUP_ROWS):
                            writer.write_batch(batch.cast(schema))
        shutil.rmtree(self._parts, ignore_errors=True)


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))
