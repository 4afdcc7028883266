"""Tiles in a file of the executor that has added them up, mapped into memory by every Python worker beside it.

As records, tiles would go through a pipe to a Python worker in each pass over them, which takes ten times as long
as multiplying with them. The files lie in the executor's folder for blocks, which Spark removes with the executor.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.arrays import Floats
from common.errors import RunError
from common.ridge.tiled_moments import TiledMoments
from common.ridge.tiles import Place, Tiling


@dataclass(frozen=True)
class TileFile:
    """The moments of one partition: n, Σx, Σy, XᵀY and the tiles, one after the other, in float64.

    Attributes:
        path: the file, on the machine of the executor that wrote it.
        partition: the number of the partition.
        n_columns: the number of columns of the features that Σx and XᵀY are of.
        n_classes: the number of classes.
    """

    path: str
    partition: int
    n_columns: int
    n_classes: int

    @classmethod
    def write(cls, moments: TiledMoments, own: Sequence[Place], partition: int) -> TileFile:
        """Write the moments of a partition into the executor's folder.

        Args:
            moments: the moments.
            own: the places of the tiles in `moments`, in the order in which they are written.
            partition: the number of the partition.

        Raises:
            RunError: the file cannot be written.
        """
        folders = os.environ["SPARK_LOCAL_DIRS"].split(",")  # set by Spark: the folders of its block manager
        path = Path(folders[partition % len(folders)]) / f"tiles-{uuid.uuid4()}"
        try:
            with path.open("wb") as file:
                for part in ([float(moments.n)], moments.sum_x, moments.sum_y, moments.cross):
                    np.asarray(part, np.float64).tofile(file)
                for place in own:
                    moments.tiles[place].tofile(file)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise RunError(
                f"{path.parent}: tiles cannot be written ({error.strerror or error}); "
                "let spark.local.dir name folders with more room"
            ) from error
        return cls(str(path), partition, len(moments.sum_x), len(moments.sum_y))

    def moments(self) -> TiledMoments:
        """Return the moments without the tiles.

        Raises:
            FileNotFoundError: the file is on another machine, or its executor has ended.
        """
        mapped = np.memmap(self.path, np.float64, "r")
        ends = np.cumsum([1, self.n_columns, self.n_classes])
        n, sum_x, sum_y, rest = np.split(mapped, ends)
        cross = rest[: self.n_columns * self.n_classes].reshape(self.n_columns, self.n_classes)
        return TiledMoments(int(n[0]), np.array(sum_x), np.array(sum_y), np.array(cross), {})

    def tiles(self, tiling: Tiling, own: Sequence[Place]) -> Iterator[tuple[Place, Floats]]:
        """Yield the tiles, mapped into memory.

        Args:
            tiling: of the whole matrix.
            own: the places of the tiles in the order in which they were written.

        Raises:
            FileNotFoundError: the file is on another machine, or its executor has ended.
        """
        mapped = np.memmap(self.path, np.float64, "r")
        start = 1 + self.n_columns + self.n_classes + self.n_columns * self.n_classes
        for place in own:
            rows, columns = tiling.shape(place)
            yield place, mapped[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns

    def remove(self) -> None:
        """Remove the file."""
        Path(self.path).unlink(missing_ok=True)
