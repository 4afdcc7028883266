from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from common.data.decode import MAX_PIXELS, PixelFormat, UndecodableImageError, decode, reformat

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (9, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (9, 7, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_come_out_as_they_went_in(kind: str, options: dict[str, object]) -> None:
    data = encoded(Image.fromarray(COLOUR), kind, **options)
    assert np.array_equal(decode(data, PixelFormat()), COLOUR)


def test_jpeg_comes_out_close() -> None:
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 3
    out = decode(encoded(Image.fromarray(smooth), "JPEG", quality=95), PixelFormat(grey=True))
    assert out.shape == (32, 48, 1)
    assert np.abs(out[..., 0].astype(int) - smooth).mean() < 2


def test_grey_of_every_depth_means_the_same() -> None:
    pixel_format = PixelFormat(grey=True)
    expected = GREY[..., None]
    assert np.array_equal(decode(encoded(Image.fromarray(GREY)), pixel_format), expected)
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(decode(encoded(deep), pixel_format), expected)
    real = Image.fromarray((GREY / 255).astype(np.float32))
    assert np.array_equal(decode(encoded(real, "TIFF"), pixel_format), expected)
    wide = Image.fromarray(GREY.astype(np.int32))
    assert np.array_equal(decode(encoded(wide, "TIFF"), pixel_format), expected)


def test_one_bit_palette_and_cmyk_are_understood() -> None:
    black_and_white = Image.fromarray(GREY > 127)
    assert np.array_equal(decode(encoded(black_and_white), PixelFormat(grey=True))[..., 0], (GREY > 127) * 255)
    palette = Image.fromarray(COLOUR).quantize(255)
    assert np.array_equal(decode(encoded(palette), PixelFormat()), np.asarray(palette.convert("RGB")))
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    assert np.array_equal(decode(encoded(cmyk, "TIFF"), PixelFormat()), np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = Image.new(mode, (4, 3))  # black and wholly transparent
    assert (decode(encoded(image), PixelFormat()) == 255).all()


def test_a_photograph_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it upright
    data = encoded(Image.fromarray(COLOUR), "TIFF", exif=exif)
    assert np.array_equal(decode(data, PixelFormat()), np.rot90(COLOUR, -1))


def test_size_grey_and_binarize() -> None:
    halves = np.zeros((10, 20, 3), np.uint8)
    halves[:, 10:] = 255
    data = encoded(Image.fromarray(halves))
    assert decode(data, PixelFormat((40, 60))).shape == (40, 60, 3)
    grey = decode(data, PixelFormat((40, 60), grey=True))
    assert grey.shape == (40, 60, 1)
    black_white = decode(data, PixelFormat((40, 60), binarize=0.5))
    assert black_white.shape == (40, 60, 1)
    assert np.array_equal(black_white == 255, grey >= 128)
    assert set(np.unique(black_white)) == {0, 255}


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


GOOD = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)))
JPEG = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a PNG"),
        (b"no image at all", "not a PNG"),
        (GOOD[: len(GOOD) // 2], "truncated|incomplete|broken"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (GOOD[:200] + bytes(200) + GOOD[400:], "broken|CRC|decompress|truncated"),
        (_png_header(9000, 9000), "81,000,000|9000×9000"),
        (_png_header(60000, 60000), "60000×60000|exceeds"),
        (encoded(Image.fromarray(GREY), "GIF"), "not a PNG"),
        (encoded(Image.fromarray(np.full((3, 3), np.nan, np.float32)), "TIFF"), "NaN"),
    ],
)
def test_what_cannot_be_decoded_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableImageError, match=reason) as caught:
        decode(data, PixelFormat())
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_decoded_images_are_brought_into_a_pixel_format_like_files() -> None:
    pixels = RNG.integers(0, 256, (5, 9, 7, 3), np.uint8)
    for pixel_format in (
        PixelFormat(),
        PixelFormat((4, 6)),
        PixelFormat(grey=True),
        PixelFormat((4, 6), binarize=0.4),
    ):
        expected = np.stack([decode(encoded(Image.fromarray(p)), pixel_format) for p in pixels])
        assert np.array_equal(reformat(pixels, pixel_format), expected)
    assert reformat(pixels[..., :1], PixelFormat((4, 6))).shape == (5, 4, 6, 1)


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1)])
def test_what_is_too_thin_to_be_covered_is_refused_before_it_is_enlarged(size: tuple[int, int]) -> None:
    pixel_format = PixelFormat((224, 224), crop=True)
    with pytest.raises(UndecodableImageError, match="too thin"):
        decode(encoded(Image.new("L", size)), pixel_format)
    height, width = pixel_format.resized(224, 10_000)
    assert height * width < MAX_PIXELS


FILTERS = """
import io, warnings
import common.data.decode as decode
from PIL import Image

def of_pillow():
    return [entry for entry in warnings.filters if "PIL" in str(entry[3])]

assert not of_pillow()
file = io.BytesIO()
Image.new("L", (2, 2)).save(file, "PNG")
for _ in range(2):
    decode.decode(file.getvalue(), decode.PixelFormat())
    assert len(of_pillow()) == 1
"""


def test_pillows_warnings_are_ignored_by_processes_that_decode_and_by_no_import() -> None:
    subprocess.run([sys.executable, "-c", FILTERS], check=True)
