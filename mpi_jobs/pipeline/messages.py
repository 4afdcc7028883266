"""The messages between roles. A chunk is some images that travel together; messages name it by its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.arrays import Floats, Indices, Items, Labels, Pixels, Singles


class Announced(NamedTuple):
    """Source to sink: a chunk has been given out.

    Attributes:
        chunk: the number of the chunk; chunks are numbered in the order of their images.
        ids: the names of its images.
        labels: int64 (n,), their true classes; -1 where the class is not known.
    """

    chunk: int
    ids: list[str]
    labels: Labels


class Chunk(NamedTuple):
    """Source to preprocessor: decode these images and keep them. Source to predictor: decode and predict them.

    Attributes:
        number: the number of the chunk.
        items: (n,), the items by which the reader finds the images.
    """

    number: int
    items: Items


class Decoded(NamedTuple):
    """Preprocessor to source: a chunk waits here for a predictor.

    Attributes:
        chunk: the number of the chunk.
    """

    chunk: int


class HandOver(NamedTuple):
    """Source to preprocessor: send a decoded chunk to a predictor.

    Attributes:
        chunk: the number of the chunk.
        predictor: the rank of the predictor.
    """

    chunk: int
    predictor: int


class DecodedChunk(NamedTuple):
    """Preprocessor to predictor: the pixels of a chunk.

    Attributes:
        number: the number of the chunk.
        n: the number of images in the chunk, skipped ones included.
        kept: int64 (m,), the positions of the decoded images in the chunk.
        pixels: uint8 (m, height, width, channels), the decoded images, as bytes: floats would be four times as
            large.
        errors: n - m reasons, one for each skipped image.
    """

    number: int
    n: int
    kept: Indices
    pixels: Pixels
    errors: list[str]

    def without(self, rows: Sequence[int], reason: str) -> DecodedChunk:
        """Return the chunk without the images at some rows of its pixels, which count as skipped."""
        skipped = np.setdiff1d(np.arange(self.n), self.kept).tolist()
        reasons = dict(zip(skipped, self.errors, strict=True)) | dict.fromkeys(self.kept[rows].tolist(), reason)
        left = np.delete(np.arange(len(self.kept)), rows)
        errors = [reasons[position] for position in sorted(reasons)]
        return DecodedChunk(self.number, self.n, self.kept[left], self.pixels[left], errors)


class Doubtful(NamedTuple):
    """An image whose two best classes were close.

    Attributes:
        margin: the best score minus the next.
        position: the position of the image in its chunk.
        predicted: the best class.
        pixels: uint8 (height, width, channels).
    """

    margin: float
    position: int
    predicted: int
    pixels: Pixels


class Scored(NamedTuple):
    """Predictor to sink: the predictions for a chunk.

    Attributes:
        chunk: the number of the chunk.
        n: the number of images in the chunk, skipped ones included.
        kept: int64 (m,), the positions of the predicted images in the chunk.
        top: int64 (m, top), their best classes, best first.
        scores: float32 or float64 (m, top), the scores of these classes, or None if the rows have no scores.
        errors: n - m reasons, one for each skipped image.
        doubtful: images whose two best classes were closer than those of nearly all other images.
    """

    chunk: int
    n: int
    kept: Indices
    top: Labels
    scores: Singles | Floats | None
    errors: list[str]
    doubtful: list[Doubtful]


class Finished(NamedTuple):
    """Predictor to source: a chunk is predicted, and its pixels are freed.

    Attributes:
        chunk: the number of the chunk.
    """

    chunk: int


class Accepted(NamedTuple):
    """Sink to source: rows have been given to the file.

    Attributes:
        rows: the number of rows.
        errors: the number of skipped images among them.
    """

    rows: int
    errors: int


class End(NamedTuple):
    """Source to all roles: everything has been written."""
