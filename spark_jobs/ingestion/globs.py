"""Image files that match a glob on a file system that Spark reads: the JVM lists and reads them.

Spark's listing leaves out files without saying so. It is therefore compared with Hadoop's: images and files in
quarantine are all files that match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import RDD, SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import col
from pyspark.sql.types import Row

from common.arrays import Keys, Pixels
from common.data.catalogue import Classes, Skipped, printable
from common.data.decode import PixelFormat, decode
from common.data.images import DECODED_ROWS, Block
from common.data.pillow import UndecodableImageError
from common.data.sources import is_kind
from common.data.sources.files import MAX_BYTES
from common.data.sources.patterns import WILDCARDS
from common.data.splits import ALWAYS_TRAINING
from common.data.table.writing import name_keys, plain_names
from common.errors import InputError

LISTING_TASKS = 2
"""Tasks per core in which files are listed."""

FIRST_FILES = 64
"""Number of files that are tried for a first one that can be decoded."""

SEPARATOR = "\n"
"""A character that no address contains."""

LEFT_OUT = "Spark reads no file whose name, or whose folder's name, begins with _ or ."

UNLABELLED = -1
"""The label of an image whose folder is not one of the classes."""


def is_glob(spec: str) -> bool:
    """Return True if a source is a glob; in folder:PATH and the like, wildcards are ordinary characters."""
    return WILDCARDS.search(spec) is not None and not is_kind(spec.partition(":")[0])


@dataclass(frozen=True)
class RemoteGlob:
    """Image files whose class is the name of their folder.

    Attributes:
        pattern: the glob, as Hadoop understands it.
        root: the folder before the first wildcard, without scheme and host; names of images are relative to it.
        frame: path, length and content of every file that Spark reads.
        lengths: the sizes of these files in bytes, by path, asked for once: each time is a request per file.
        empty: the paths of files without content, which are not in the frame.
        left_out: the paths of files that Spark does not read.
    """

    pattern: str
    root: str
    frame: DataFrame
    lengths: Mapping[str, int]
    empty: tuple[str, ...]
    left_out: tuple[str, ...]

    @classmethod
    def open(cls, context: SparkContext, pattern: str) -> RemoteGlob:
        """List the files that match a glob.

        Raises:
            InputError: no file matches, the pattern is not for this file system, or Spark cannot read it.
        """
        if pattern.startswith(("http://", "https://")):
            raise InputError(f"{pattern}: addresses of the web cannot be listed; download the files first")
        if "**" in pattern.split("/"):
            raise InputError(f"{pattern}: ** is for files of this machine; elsewhere, name each level: */*/*.jpg")
        pattern = _for_hadoop(context, pattern)
        session = SparkSession(context)
        # by default Spark counts 4 MB for opening a file, so that each partition would get just 32 images
        session.conf.set("spark.sql.files.openCostInBytes", str(32 << 10))
        session.conf.set("spark.sql.files.maxPartitionBytes", str(64 << 20))
        # by default one task per file finds out how large the file is
        parallelism = str(LISTING_TASKS * context.defaultParallelism)
        session.conf.set("spark.sql.sources.parallelPartitionDiscovery.parallelism", parallelism)
        try:
            frame = session.read.format("binaryFile").load(pattern).select("path", "length", "content")
            lengths = {row["path"]: int(row["length"]) for row in frame.select("path", "length").collect()}
        except (PySparkException, Py4JError) as error:  # no file, no such file system, or not an address
            raise InputError(f"{pattern}: {_reason(error)}") from error
        fixed = WILDCARDS.split(without_scheme(pattern), maxsplit=1)[0]
        found = [without_scheme(unquote(path)) for path in frame.inputFiles()]
        seen = set(map(without_scheme, lengths))
        empty = tuple(path for path in found if path not in seen)
        left_out = tuple(_left_out(context, pattern, set(found)))
        return cls(pattern, fixed.rpartition("/")[0], frame, lengths, empty, left_out)

    def classes(self) -> list[str]:
        """Return the sorted names of the folders that contain the files."""
        return sorted({printable(path.split("/")[-2]) for path in self.lengths})

    def shape(self, pixel_format: PixelFormat) -> tuple[int, int, int]:
        """Return the (height, width, channels) of every image.

        If the pixel format has no size, the first file that can be decoded decides.

        Raises:
            InputError: none of the first FIRST_FILES files can be decoded.
        """
        if pixel_format.size is not None:
            return (*pixel_format.size, pixel_format.channels)
        for row in self._small().limit(FIRST_FILES).toLocalIterator():
            try:
                height, width, channels = decode(bytes(row["content"]), pixel_format).shape
            except UndecodableImageError:
                continue
            return height, width, channels
        raise InputError(
            f"{self.pattern}: none of the first {FIRST_FILES} files can be decoded; name others, or set --size"
        )

    def count(self) -> int:
        """Return the number of files."""
        return len(self.lengths) + len(self.empty) + len(self.left_out)

    def unread(self) -> list[Skipped]:
        """Return the files that no executor sees: those too large, empty ones, and those that Spark leaves out."""
        reason = f"bytes, more than the {MAX_BYTES:,} that are allowed"
        large = [(path, f"{n:,} {reason}") for path, n in self.lengths.items() if n > MAX_BYTES]
        left_out = [(path, LEFT_OUT) for path in self.left_out]
        empty = [(path, "an empty file") for path in self.empty]
        return [Skipped(self._name(path), why) for path, why in (*large, *left_out, *empty)]

    def blocks(
        self,
        pixel_format: PixelFormat,
        shape: tuple[int, int, int],
        classes: Classes,
        done: Keys,
    ) -> RDD[Block]:
        """Return the images as an RDD of blocks with names, decoded by the executors.

        Args:
            pixel_format: what images are decoded into.
            shape: the shape that every decoded image must have; others are skipped.
            classes: labels are positions in it; images in other folders are UNLABELLED.
            done: sorted keys of the names to leave out, uint64 (n,).
        """
        found = tuple(self.classes())
        labels = dict(zip(found, classes.positions(Classes(found)).tolist(), strict=True))
        context = SparkContext.getOrCreate()
        shared = context.broadcast((pixel_format, shape, labels, done))
        root = self.root

        def of_partition(rows: Iterable[Row]) -> Iterator[Block]:
            pixel_format, shape, labels, done = shared.value
            return _decoded(rows, root, pixel_format, shape, labels, done)

        return self._small().rdd.mapPartitions(of_partition)

    def _small(self) -> DataFrame:
        return self.frame.where(col("length") <= MAX_BYTES)

    def _name(self, path: str) -> str:
        return plain_names([without_scheme(path).removeprefix(self.root).lstrip("/")])[0]


def _for_hadoop(context: SparkContext, pattern: str) -> str:
    """Return a glob under the name that Hadoop has for its scheme: off Amazon EMR, s3:// is s3a://."""
    known = context._jsc.hadoopConfiguration().get("fs.s3.impl")
    return f"s3a{pattern[2:]}" if pattern.startswith("s3://") and not known else pattern


def _reason(error: PySparkException | Py4JError) -> str:
    """Return why Spark cannot list files, in one line."""
    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    first = next(iter(text.splitlines()), "") or type(error).__name__
    if "PATH_NOT_FOUND" in first:
        return "no file matches it"
    return f"its files cannot be listed ({first}); is there a driver for this file system, and access to it?"


def _left_out(context: SparkContext, pattern: str, read: set[str]) -> Iterator[str]:
    """Yield the paths of files that match a glob, or lie below a folder that does, and are not read."""
    jvm: Any = context._jvm
    hadoop = jvm.org.apache.hadoop
    system = hadoop.fs.Path(pattern).getFileSystem(context._jsc.hadoopConfiguration())
    util = jvm.org.apache.spark.deploy.SparkHadoopUtil.get()
    waiting = [pattern]
    while waiting:
        # in one string, because reading the elements of a Java list takes one call to the JVM each
        listed = str(util.globPath(system, hadoop.fs.Path(waiting.pop())).mkString(SEPARATOR))
        for path in listed.split(SEPARATOR) if listed else ():
            if without_scheme(path) in read:
                continue
            # a folder, unless Spark leaves it out; to list what is read as if it were one takes a request per file
            if system.getFileStatus(hadoop.fs.Path(path)).isFile():
                yield without_scheme(path)
            else:
                waiting.append(re.sub(r"([\\{}\[\]*?])", r"\\\1", path) + "/*")


def without_scheme(path: str) -> str:
    """Return the path of an address, such as /a for s3://bucket/a."""
    return re.sub(r"^[a-z][a-z0-9+.-]*:(//[^/]*)?(?=/|$)", "", path)


def _decoded(
    rows: Iterable[Row],
    root: str,
    pixel_format: PixelFormat,
    shape: tuple[int, int, int],
    labels: dict[str, int],
    done: Keys,
) -> Iterator[Block]:
    """Decode the files of a partition, DECODED_ROWS images per block; the arguments are those of `Glob.blocks`."""
    pixels = np.empty((DECODED_ROWS, *shape), np.uint8)
    names: list[str] = []
    image_labels: list[int] = []
    skipped: list[Skipped] = []

    def block() -> Block:
        n = len(names)
        folds = np.full(n, ALWAYS_TRAINING, np.int16)
        return Block(pixels[:n].copy(), np.array(image_labels, np.int64), folds, names, skipped)

    for row in rows:
        path = without_scheme(row["path"])
        (name,) = plain_names([path.removeprefix(root).lstrip("/")])
        if _contains(done, name_keys([name])):
            continue
        try:
            pixels[len(names)] = _decoded_to_shape(bytes(row["content"]), pixel_format, shape)
        except UndecodableImageError as error:
            skipped.append(Skipped(name, str(error)))
        else:
            names.append(name)
            image_labels.append(labels.get(printable(path.split("/")[-2]), UNLABELLED))
        if len(names) == DECODED_ROWS:
            yield block()
            names, image_labels, skipped = [], [], []
    yield block()


def _contains(keys: Keys, key: Keys) -> bool:
    """Return True if sorted keys, uint64 (n,), contain a key, uint64 (1,)."""
    at = int(np.searchsorted(keys, key)[0])
    return at < len(keys) and bool(keys[at] == key[0])


def _decoded_to_shape(data: bytes, pixel_format: PixelFormat, shape: tuple[int, int, int]) -> Pixels:
    """Decode an image, uint8 `shape`.

    Raises:
        UndecodableImageError: the file cannot be decoded, or the image has another shape.
    """
    image = decode(data, pixel_format)
    if image.shape != shape:
        raise UndecodableImageError(
            f"{image.shape[0]}x{image.shape[1]} where others are {shape[0]}x{shape[1]}: "
            "bring all to one size with --size HxW"
        )
    return image
