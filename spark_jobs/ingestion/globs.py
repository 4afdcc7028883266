"""Image files named by a glob, on any file system that Spark reads: the JVM finds and reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
from py4j.protocol import Py4JError
from pyspark import RDD, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col, element_at, split
from pyspark.sql.types import Row

from common.arrays import Keys
from common.data.catalogue import Skipped, printable
from common.data.decode import PixelFormat, UndecodableImageError, decode
from common.data.images import DECODED_ROWS, Block
from common.data.sources import AT_PATH, NAMED, TABLE
from common.data.sources.files import MAX_BYTES
from common.data.splits import ALWAYS_TRAINING
from common.data.table.writing import name_keys, plain_names
from common.errors import InputError

WILDCARDS = re.compile(r"[*?\[{]")
LISTING_TASKS = 2
"""Tasks a core in which files are listed."""

FIRST_FILES = 64
"""How many files to try for a first one that can be decoded."""

SEPARATOR = "\n"
"""What no address holds."""

UNLABELLED = -1
"""The label of an image whose folder is no class."""


def is_glob(spec: str) -> bool:
    """Whether a source is named by wildcards; folder:PATH and the like are taken as they are."""
    return WILDCARDS.search(spec) is not None and spec.partition(":")[0] not in {*NAMED, *AT_PATH, TABLE}


@dataclass(frozen=True)
class Glob:
    """Image files whose class is the name of the folder they lie in.

    Attributes:
        pattern: the glob, as Hadoop understands it.
        root: what comes before the first wildcard, without scheme and host; names begin behind it.
        frame: path, length and content of every file.
    """

    pattern: str
    root: str
    frame: DataFrame

    @classmethod
    def open(cls, context: SparkContext, pattern: str) -> Glob:
        """Find the files.

        Raises:
            InputError: no file matches, or Spark cannot read that file system.
        """
        session = SparkSession(context)
        # Spark counts 4 MB for opening a file, which would make a partition of every 32 images
        session.conf.set("spark.sql.files.openCostInBytes", str(32 << 10))
        session.conf.set("spark.sql.files.maxPartitionBytes", str(64 << 20))
        # nor a task for every file to find out how large it is
        parallelism = str(LISTING_TASKS * context.defaultParallelism)
        session.conf.set("spark.sql.sources.parallelPartitionDiscovery.parallelism", parallelism)
        pattern = _absolute(pattern)
        try:
            frame = session.read.format("binaryFile").load(pattern).select("path", "length", "content")
        except (PySparkException, Py4JError) as error:  # nothing there, no such file system, no address at all
            raise InputError(f"{pattern}: no file matches it ({str(error).splitlines()[0]})") from error
        fixed = WILDCARDS.split(without_scheme(pattern), maxsplit=1)[0]
        return cls(pattern, fixed.rpartition("/")[0], frame)

    def classes(self) -> list[str]:
        """The names of the folders that files lie in, sorted."""
        folder = element_at(split(col("path"), "/"), -2)
        return sorted({printable(row[0]) for row in self.frame.select(folder).distinct().collect()})

    def shape(self, form: PixelFormat) -> tuple[int, int, int]:
        """(height, width, channels) of images in `form`: if it has no size, of the first that can be decoded.

        Raises:
            InputError: none can.
        """
        if form.size is not None:
            return (*form.size, form.channels)
        for row in self._small().limit(FIRST_FILES).toLocalIterator():
            try:
                height, width, channels = decode(bytes(row["content"]), form).shape
            except UndecodableImageError:
                continue
            return height, width, channels
        raise InputError(
            f"{self.pattern}: none of the first {FIRST_FILES} files can be decoded; name others, or --size"
        )

    def count(self) -> int:
        """How many files there are."""
        return len(self.frame._jdf.inputFiles())

    def unread(self) -> list[Skipped]:
        """Files that no executor sees: too large, or empty, which Spark leaves out by itself."""
        rows = self.frame.select("path", "length").where(col("length") > MAX_BYTES).collect()
        reason = f"bytes, more than the {MAX_BYTES:,} that are allowed"
        large = [Skipped(self._name(row["path"]), f"{row['length']:,} {reason}") for row in rows]
        found = self.frame._jdf.inputFiles()
        if len(found) == self.frame.count():
            return large
        # all in one string, because each element of a Java array would be a call of its own
        jvm: Any = SparkContext.getOrCreate()._jvm
        every = jvm.org.apache.hadoop.util.StringUtils.join(SEPARATOR, found).split(SEPARATOR)
        seen = {without_scheme(row["path"]) for row in self.frame.select("path").toLocalIterator()}
        empty = [path for path in map(without_scheme, map(unquote, every)) if path not in seen]
        return large + [Skipped(self._name(path), "an empty file") for path in empty]

    def blocks(
        self,
        form: PixelFormat,
        shape: tuple[int, int, int],
        class_names: tuple[str, ...],
        done: Keys,
    ) -> RDD[Block]:
        """Decode on the executors.

        Args:
            form: what to turn images into.
            shape: what they must come out as.
            class_names: labels are positions in it; images in other folders are UNLABELLED.
            done: uint64, sorted: keys of names to leave out.
        """
        labels = {name: label for label, name in enumerate(class_names)}
        context = SparkContext.getOrCreate()
        shared = context.broadcast((form, shape, labels, done))
        root = self.root

        def of_partition(rows: Iterable[Row]) -> Iterator[Block]:
            form, shape, labels, done = shared.value
            return _decoded(rows, root, form, shape, labels, done)

        return self._small().rdd.mapPartitions(of_partition)

    def _small(self) -> DataFrame:
        return self.frame.where(col("length") <= MAX_BYTES)

    def _name(self, path: str) -> str:
        return plain_names([without_scheme(path).removeprefix(self.root).lstrip("/")])[0]


def _absolute(pattern: str) -> str:
    """A pattern without . and .. before its first wildcard, so that a file has one name from wherever."""
    scheme, _, path = pattern.rpartition("://")
    if scheme or pattern.startswith("file:"):
        return pattern
    where = WILDCARDS.search(path)
    cut = path.rfind("/", 0, where.start() if where else len(path)) + 1
    return f"{os.path.abspath(path[:cut] or '.').rstrip('/')}/{path[cut:]}"  # noqa: PTH100  # keeps links as they are


def without_scheme(path: str) -> str:
    """The path of an address: of s3://bucket/a it is /a."""
    return re.sub(r"^[a-z][a-z0-9+.-]*:(//[^/]*)?(?=/|$)", "", path)


def _decoded(
    rows: Iterable[Row],
    root: str,
    form: PixelFormat,
    shape: tuple[int, int, int],
    labels: dict[str, int],
    done: Keys,
) -> Iterator[Block]:
    pixels = np.empty((DECODED_ROWS, *shape), np.uint8)
    names: list[str] = []
    found: list[int] = []
    skipped: list[Skipped] = []

    def block() -> Block:
        n = len(names)
        return Block(
            pixels[:n].copy(), np.array(found, np.int64), np.full(n, ALWAYS_TRAINING, np.int16), names, skipped
        )

    for row in rows:
        path = without_scheme(row["path"])
        (name,) = plain_names([path.removeprefix(root).lstrip("/")])
        key = name_keys([name])
        where = np.searchsorted(done, key)
        if where[0] < len(done) and done[where[0]] == key[0]:
            continue
        try:
            image = decode(bytes(row["content"]), form)
            if image.shape != shape:
                raise UndecodableImageError(
                    f"{image.shape[0]}x{image.shape[1]} where others are {shape[0]}x{shape[1]}: "
                    "bring all to one size with --size HxW"
                )
        except UndecodableImageError as error:
            skipped.append(Skipped(name, str(error)))
        else:
            pixels[len(names)] = image
            names.append(name)
            found.append(labels.get(printable(path.split("/")[-2]), UNLABELLED))
        if len(names) == DECODED_ROWS:
            yield block()
            names, found, skipped = [], [], []
    yield block()
