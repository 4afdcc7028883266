"""Predictions that are written as they come, so that a run that was killed can go on where it stopped.

A row is one image's. Of CSV there is one file from the beginning; what a kill cut off is less than a row, and goes
when the run goes on. Of Parquet there are parts, each whole or not there, that become one file at the end. Why an
image could not be used is in skipped.csv; its row is there in any case, with no class.
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

import pyarrow as pa
import pyarrow.parquet as pq

from common.arrays import Floats, Labels, Singles
from common.atomic import readable, write_atomically, written_into
from common.data.catalogue import Skipped, write_skipped
from common.data.storage import PARTIAL
from common.errors import InputError
from common.predict.predictions import GROUP_ROWS, PREDICTIONS, Form, column_title, rows_table, text_array

SKIPPED = "skipped.csv"
FORMATS = ("csv", "parquet")

FLUSH_S = 1.0
"""Seconds after which rows of CSV are on the disk at the latest."""
PART_S = 30.0
"""The same of Parquet, where each time makes a file."""

LONGEST_FIELD = 1 << 24
"""Letters of an id, far beyond what any path has."""

MERGED = b"merged"
"""Metadata of the one file: the number of the first part that is not in it."""


class Rows(NamedTuple):
    """Predictions of some images, in the order in which they are to be written.

    Attributes:
        ids: what they are called.
        top: int64 (n, top), their best classes, best first; -1 of those that could not be used.
        scores: floats (n, top), or None where nobody wants them.
        errors: n reasons, None of those that could be used.
    """

    ids: Sequence[str]
    top: Labels
    scores: Singles | Floats | None
    errors: Sequence[str | None]


Written = dict[str, list[int]]
"""By id, the best class of each row that is written already, the last one first; -1 of an unusable image."""


class PredictionFile(ABC):
    """Where the predictions of a run go.

    Args:
        folder: the run folder.
        form: what a row says.
        class_ids: what classes are called.
        flush_s: how often rows are to be on the disk.
    """

    def __init__(self, folder: Path, form: Form, class_ids: Sequence[str], flush_s: float) -> None:
        self._folder, self._form = folder, form
        self._class_ids = [readable(name) for name in class_ids]
        self._flush_s = flush_s
        self._flushed = time.monotonic()
        self._skipped: IO[str] | None = None

    @staticmethod
    def of(kind: str, folder: Path, form: Form, class_ids: Sequence[str]) -> PredictionFile:
        """The file of this kind, one of FORMATS, in a run folder."""
        return (CsvFile if kind == "csv" else ParquetFile)(folder, form, class_ids)

    @property
    @abstractmethod
    def path(self) -> Path:
        """Of the predictions, once all are written."""

    def resume(self) -> Written:
        """Find what is written, and remove what a kill has cut off.

        Raises:
            InputError: what is there are no predictions of this form by this model.
        """
        position = {name: number for number, name in enumerate(self._class_ids)} | {"": -1}
        written: Written = defaultdict(list)
        with written_into(self._folder):
            for name, predicted in self._rows():
                if predicted not in position:
                    raise InputError(f"{self._folder}: predicts {predicted!r}, which is no class of this model")
                written[name].append(position[predicted])
            for classes in written.values():
                classes.reverse()
            self._keep_reasons(written)
        return dict(written)

    @abstractmethod
    def _rows(self) -> Iterator[tuple[str, str]]:
        """Ids and best classes of all rows that are written whole; "" for no class."""

    def _keep_reasons(self, written: Written) -> None:
        """Keep in skipped.csv what belongs to rows that are written."""
        path = self._folder / SKIPPED
        if not path.exists():
            return
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            told = [Skipped(*row) for row in csv.reader(file) if len(row) == len(Skipped._fields)][1:]
        left = Counter({name: classes.count(-1) for name, classes in written.items() if -1 in classes})
        kept = []
        for image in told:
            if left[image.name]:
                left[image.name] -= 1
                kept.append(image)
        write_skipped(path, kept)

    def write(self, rows: Rows) -> None:
        """Add rows.

        Raises:
            InputError: they cannot be written.
        """
        with written_into(self._folder):
            skipped = [
                Skipped(name, error)
                for name, error in zip(rows.ids, rows.errors, strict=True)
                if error is not None
            ]
            if skipped:
                # before the rows are: a reason without a row goes when the run goes on, a row has its reason
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
    def _write(self, rows: Rows) -> None:
        """Add rows, to be written soon."""

    def flush_if_due(self) -> None:
        """Write what is waiting, if it has been for long.

        Raises:
            InputError: it cannot be written.
        """
        if time.monotonic() - self._flushed >= self._flush_s:
            with written_into(self._folder):
                self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        self._flush()
        self._flushed = time.monotonic()

    @abstractmethod
    def _flush(self) -> None:
        """Write what is waiting."""

    def close(self) -> None:
        """Write what is waiting: there will be no more.

        Raises:
            InputError: it cannot be written.
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
    """predictions.csv: Id, Predicted, and what else was asked for."""

    def __init__(self, folder: Path, form: Form, class_ids: Sequence[str]) -> None:
        super().__init__(folder, form, class_ids, FLUSH_S)
        self._title = [column_title(name) for name in form.schema().names if name != "error"]
        self._file: IO[bytes] | None = None
        self._names = [*self._class_ids, ""]
        self._waiting = io.StringIO(newline="")

    @property
    def path(self) -> Path:
        """Of the file."""
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

    def _write(self, rows: Rows) -> None:
        columns: list[Sequence[str]] = [[readable(name) for name in rows.ids]]
        for rank in range(self._form.top):
            columns.append([self._names[c] for c in rows.top[:, rank].tolist()])
            if rows.scores is not None:
                columns.append(["" if s != s else f"{s:.6g}" for s in rows.scores[:, rank].tolist()])
        # the writer thinks of \n only as what must be quoted, and readers of \r too
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
        while data:  # whole rows reach the system at once, unless it takes less
            data = data[self._file.write(data) :]

    def _close(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()


class _Lines:
    """The lines of a file as text, and how much of it has been read.

    Attributes:
        read: bytes.
        ended: whether the last line had an end.
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
    """predictions.parquet: name, predicted, what else was asked for, error."""

    def __init__(self, folder: Path, form: Form, class_ids: Sequence[str]) -> None:
        super().__init__(folder, form, class_ids, PART_S)
        self._schema = form.schema()
        self._names = text_array(self._class_ids)
        self._waiting: list[pa.Table] = []
        self._parts = folder / PREDICTIONS

    @property
    def path(self) -> Path:
        """Of the file that is there in the end."""
        return self._folder / f"{PREDICTIONS}.parquet"

    def _merged(self) -> int:
        """The number of the first part that is not in the one file."""
        if not self.path.exists():
            return 0
        return int((pq.read_schema(self.path).metadata or {}).get(MERGED, b"0"))

    def _found(self) -> list[Path]:
        """What is written, in its order."""
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
            return self._found()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{self.path}: damaged ({str(error).splitlines()[0]})") from error

    def _write(self, rows: Rows) -> None:
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
        """Make one file of all parts."""
        found = self._found()
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
