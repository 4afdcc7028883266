from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from common.data.decode import PixelFormat, decode, reformat
from common.data.pillow import MAX_PIXELS, UndecodableImageError, note

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


def grey_of(image: Image.Image, kind: str = "TIFF", **options: object) -> np.ndarray:
    return decode(encoded(image, kind, **options), PixelFormat(grey=True))[..., 0]


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floats_that_overshoot_a_little_keep_their_range(white: int) -> None:
    values = (GREY / 255 * white).astype(np.float32)
    values[0, 0], values[0, 1] = 1.004 * white, -0.004 * white
    found = grey_of(Image.fromarray(values))
    assert found[0, :2].tolist() == [255, 0]
    assert np.array_equal(found[1:], GREY[1:])


@pytest.mark.parametrize("values", [GREY.astype(np.uint16) * 257, (GREY / 255).astype(np.float32)])
def test_deep_grey_whose_zero_is_white_is_no_negative(values: np.ndarray) -> None:
    data = encoded(Image.fromarray(values), "TIFF")
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert data.count(entry) == 1
    inverted = data.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    assert np.array_equal(decode(inverted, PixelFormat(grey=True))[..., 0], 255 - GREY)


def test_transparent_pixels_are_white_at_sixteen_bits_too() -> None:
    deep = GREY.astype(np.uint16) * 257
    deep[0, 0] = 1000
    found = grey_of(Image.fromarray(deep), "PNG", transparency=1000)
    assert found[0, 0] == 255
    assert np.array_equal(found[1:], GREY[1:])
    colour = np.full((2, 2, 3), 40000, ">u2")
    colour[0, 0] = (10, 20, 30)
    transparency = _chunk(b"tRNS", struct.pack(">HHH", 40000, 40000, 40000))
    rows = b"".join(b"\0" + row.tobytes() for row in colour)
    found = decode(
        _png(_header_of(2, 2, 16, 2), transparency, _chunk(b"IDAT", zlib.compress(rows))), PixelFormat()
    )
    assert found[0, 0].tolist() == [0, 0, 0]
    assert (found[1] == 255).all()


def test_grey_of_unusual_types_keeps_its_order() -> None:
    ramp = np.linspace(0, 1, 63).reshape(9, 7)
    for values in (
        (ramp * (2**32 - 1)).astype(np.uint32).view(np.int32),  # as Pillow writes them
        (ramp * 262_140).astype(np.int32),
    ):
        data = encoded(Image.fromarray(values), "TIFF")
        entry = struct.pack("<HHIHH", 339, 3, 1, 2, 0)  # signed
        data = data.replace(entry, struct.pack("<HHIHH", 339, 3, 1, 1, 0))
        found = decode(data, PixelFormat(grey=True))[..., 0].ravel().astype(int)
        assert (np.diff(found) >= 0).all()
        assert found[0] == 0
        assert found[-1] >= 254


def test_twelve_bits_are_not_sixteen() -> None:
    samples = np.arange(0, 4096, 65)[:64].astype(int).reshape(8, 8)
    pairs = samples.reshape(-1, 2).tolist()
    packed = b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in pairs)
    tags = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 8)]
    tags.append((279, len(packed)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed
    found = decode(data, PixelFormat(grey=True))[..., 0]
    assert np.abs(found.astype(int) - samples * 255 / 4095).max() <= 1


@pytest.mark.parametrize("bits", [2, 4])
def test_transparent_grey_of_few_bits_is_white(bits: int) -> None:
    transparency = _chunk(b"tRNS", struct.pack(">H", 1))
    rows = b"\0" + bytes([0b00011011 if bits == 2 else 0x01]) + (b"" if bits == 2 else bytes([0x23]))
    data = _png(_header_of(4, 1, bits, 0), transparency, _chunk(b"IDAT", zlib.compress(rows)))
    largest = 2**bits - 1
    expected = [value * 255 // largest for value in (0, 1, 2, 3)]
    expected[1] = 255
    assert decode(data, PixelFormat(grey=True)).ravel().tolist() == expected


def test_a_guessed_range_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    note.cache_clear()
    for _ in range(3):
        grey_of(Image.fromarray((GREY / 255).astype(np.float32)))
    assert capfd.readouterr().err.count("some are taken to have 1\n") == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_odd_metadata_decide_nothing(kind: str) -> None:
    """Whatever is wrong with EXIF, the orientation is followed if it can be read, and the pixels are kept."""
    image = Image.fromarray(COLOUR)
    options = {"lossless": True} if kind == "WEBP" else {}
    upright = decode(encoded(image, kind, **options), PixelFormat())
    whole = Image.Exif()
    whole[0x0112], whole[0x011A], whole[0x013B] = 6, 72.0, "somebody"
    turned = decode(encoded(image, kind, exif=whole, **options), PixelFormat())
    assert np.array_equal(turned, np.rot90(upright, -1))
    block = whole.tobytes()
    for cut in range(8, len(block), 3):
        odd = block[:cut] + b"\xff" * (len(block) - cut)
        found = decode(encoded(image, kind, exif=odd, **options), PixelFormat())
        assert np.array_equal(found, upright) or np.array_equal(found, turned)


def test_text_of_any_size_in_a_png_is_ignored() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * (2 << 20), zip=True)
    assert np.array_equal(decode(encoded(Image.fromarray(COLOUR), pnginfo=text), PixelFormat()), COLOUR)


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


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _header_of(width: int, height: int, bits: int, colour: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def _png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""
    return _png(_header_of(width, height, 8, 0), _chunk(b"IDAT", zlib.compress(b"\0" * 100)))


GOOD = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)))
JPEG = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty file"),
        (b"no image at all", "not a PNG"),
        (GOOD[: len(GOOD) // 2], "truncated|incomplete|broken"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (GOOD[:200] + bytes(200) + GOOD[400:], "broken|CRC|decompress|truncated"),
        (_png_header(9000, 9000), "81,000,000|9000×9000"),
        (_png_header(60000, 60000), "60000×60000|more pixels than the 64,000,000 that --max-pixels"),
        (encoded(Image.fromarray(GREY), "GIF"), "GIF, not a PNG, .*convert it"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC, not"),
        (encoded(Image.fromarray(np.full((3, 3), np.nan, np.float32)), "TIFF"), "NaN"),
    ],
)
def test_what_cannot_be_decoded_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(UndecodableImageError, match=reason) as caught:
        decode(data, PixelFormat())
    assert "\n" not in str(caught.value)
    assert str(caught.value)


def test_the_limit_of_pixels_can_be_raised_and_changes_no_format() -> None:
    data = encoded(Image.new("L", (9000, 8000)), "PNG")
    with pytest.raises(UndecodableImageError, match="9000×8000 pixels, more than the 64,000,000"):
        decode(data, PixelFormat((4, 4), grey=True))
    large = PixelFormat((4, 4), grey=True, max_pixels=72_000_000)
    assert decode(data, large).shape == (4, 4, 1)
    assert large == PixelFormat((4, 4), grey=True)
    assert PixelFormat.of(json.loads(json.dumps(large.described()))) == large


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
