from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common.data.pillow import UndecodableImageError
from common.data.thumbnails import SIDE, picture_of, thumbnail

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8, 1), (8, 8)), ((64, 64, 3), (64, 64)), ((200, 100, 3), (64, 32)), ((10, 900, 1), (1, 64))],
)
def test_thumbnails_are_small_and_like_their_images(
    shape: tuple[int, int, int], expected: tuple[int, int]
) -> None:
    smooth = np.linspace(0, 255, shape[1])[None, :, None] * np.ones(shape)
    data = thumbnail(smooth.astype(np.uint8))
    found = picture_of(data)
    assert found.shape == (*expected, 3)
    assert len(data) < 2500
    truth = np.linspace(0, 255, expected[1])[None, :, None]
    assert np.abs(found - truth).mean() < 10


def test_what_is_no_thumbnail_is_refused_before_it_is_decoded() -> None:
    """A table may come from anybody: of a bomb only the header is read."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    large = io.BytesIO()
    Image.new("L", (SIDE + 1, SIDE)).save(large, format="JPEG")
    for data in (
        bomb,
        large.getvalue(),
        b"",
        b"no image",
        thumbnail(RNG.integers(0, 255, (9, 9, 3), np.uint8))[:200],
    ):
        with pytest.raises(UndecodableImageError):
            picture_of(data)
