"""What roles tell each other. A chunk is some images on their way together, known by its number."""

from __future__ import annotations

from typing import NamedTuple

from common.arrays import Indices, Items, Labels, Pixels, Singles


class Announced(NamedTuple):
    """Source to sink: a chunk has been given out.

    Attributes:
        chunk: its number; chunks are numbered in the order of their images.
        ids: what its images are called.
        labels: int64 (n,), their classes where they are known, else -1.
    """

    chunk: int
    ids: list[str]
    labels: Labels


class Chunk(NamedTuple):
    """Source to preprocessor: decode these, and keep them; to predictor: decode and predict them.

    Attributes:
        number: of the chunk.
        items: (n,), what the reader needs to find each image.
    """

    number: int
    items: Items


class Decoded(NamedTuple):
    """Preprocessor to source: a chunk waits here for a predictor."""

    chunk: int


class HandOver(NamedTuple):
    """Source to preprocessor: send a decoded chunk to a predictor, whose rank this is."""

    chunk: int
    predictor: int


class DecodedChunk(NamedTuple):
    """Preprocessor to predictor.

    Attributes:
        number: of the chunk.
        n: images that it began with.
        kept: int64 (m,), the positions of those that could be decoded.
        pixels: uint8 (m, height, width, channels), theirs: bytes, which are a quarter of what floats would be.
        errors: n - m reasons, why the others could not.
    """

    number: int
    n: int
    kept: Indices
    pixels: Pixels
    errors: list[str]


class Doubtful(NamedTuple):
    """An image whose two best classes were close.

    Attributes:
        margin: between their scores.
        position: in the chunk.
        predicted: the best class.
        pixels: uint8 (height, width, channels).
    """

    margin: float
    position: int
    predicted: int
    pixels: Pixels


class Scored(NamedTuple):
    """Predictor to sink.

    Attributes:
        chunk: its number.
        n: images that it began with.
        kept: int64 (m,), the positions of those that have a prediction.
        top: int64 (m, top), their best classes, best first.
        scores: float32 (m, top), or None where nobody wants them.
        errors: n - m reasons, why the others have none.
        doubtful: images whose two best classes were closer than those of nearly all others.
    """

    chunk: int
    n: int
    kept: Indices
    top: Labels
    scores: Singles | None
    errors: list[str]
    doubtful: list[Doubtful]


class Finished(NamedTuple):
    """Predictor to source: a chunk is predicted, and its pixels are gone."""

    chunk: int


class Accepted(NamedTuple):
    """Sink to source: rows have been given to the file.

    Attributes:
        rows: how many.
        errors: images among them that could not be used.
    """

    rows: int
    errors: int


class End(NamedTuple):
    """Source to all: everything is written."""
