"""From the bytes of an image file to an upright Pillow image of 8 bits, in grey or colour.

This is the one place that knows EXIF, bit depths, transparency, decompression bombs and damaged files. Pixels
decide: odd metadata are ignored.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from common.arrays import Pixels

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")

MAX_PIXELS = 64_000_000
"""Width times height above which a file is refused by its header, before any pixel is allocated, by default."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that brings an image upright, by its EXIF orientation."""

FULL_RANGES = (1, 255, *(2**bits - 1 for bits in range(16, 33)))
"""Values that stand for white in grey images whose type does not tell."""

OVERSHOOT = 1.5
"""Factor by which floats may exceed the value for white, as they do after resampling."""

BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF files."""
WHITE_IS_ZERO, UNSIGNED = 0, 1
"""Values of the latter two."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks of PNG files that no pixel needs."""

TIFF = "TIFF"

FOREIGN = (
    (0, b"GIF8", "GIF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"<", "HTML or XML"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif", "HEIC"),
    (4, b"ftyp", "MPEG-4"),
    (0, b"II*\0", TIFF),
    (0, b"MM\0*", TIFF),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"),
)
"""Kinds of files that are often called like an image of another kind: where their mark is, and what it is."""


class UndecodableImageError(Exception):
    """The bytes do not hold an image that can be used; the message is the reason."""


@cache
def ignore_pillow_warnings() -> None:
    """Ignore Pillow's warnings of odd metadata in this process, because only pixels matter here.

    warnings.catch_warnings would not do: threads decode side by side, and it changes the filters of all of them.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


@cache
def note(text: str) -> None:
    """Tell people something, once per process."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def load(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a file into an upright image of mode L or RGB, with white behind transparency.

    Raises:
        UndecodableImageError: the file is of another kind, truncated, or has more than max_pixels pixels.
    """
    try:
        return _load(data, max_pixels)
    except ValueError:  # Pillow refuses PNG files with much text
        plain = _without_text(data)
        if plain == data:
            raise
        return _load(plain, max_pixels)


def _load(data: bytes, max_pixels: int) -> Image.Image:
    with opened(io.BytesIO(data), max_pixels) as image:
        return upright(image)


def upright(image: Image.Image) -> Image.Image:
    """Return an opened image as `load` does: upright, of mode L or RGB, with white behind transparency."""
    _halve_transparency(image)
    image.load()
    orientation = _orientation(image)  # Pillow has turned TIFF files already, and says 1
    flat = _flatten(image)
    return flat.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else flat


class Header(NamedTuple):
    """Facts about an image that need no decoding.

    Attributes:
        height: height of the image as stored.
        width: width of the image as stored.
        upright: True if its EXIF orientation asks for no rotation or reflection.
    """

    height: int
    width: int
    upright: bool


def header(file: BinaryIO | Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header of an image file.

    Raises:
        UndecodableImageError: the file is of another kind, or has more than max_pixels pixels.
    """
    ignore_pillow_warnings()
    with errors_of_the_image(), opened(file, max_pixels) as image:
        return Header(image.height, image.width, _orientation(image) not in UPRIGHT)


@contextmanager
def opened(file: BinaryIO | Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open an image of an allowed kind and size, without reading its pixels."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # or Pillow would refuse what was asked for
    try:
        found = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UndecodableImageError(f"more pixels than the {max_pixels:,} that --max-pixels allows") from error
    with found as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UndecodableImageError(
                f"{width}×{height} pixels, more than the {max_pixels:,} that --max-pixels allows"
            )
        yield image


@contextmanager
def errors_of_the_image(data: bytes | None = None) -> Iterator[None]:
    """Turn every error in the block into an UndecodableImageError.

    Args:
        data: the bytes of the file, by which the message can name its kind.

    Raises:
        UndecodableImageError: the block raised something.
    """
    try:
        yield
    except UndecodableImageError:
        raise
    # Pillow's plugins raise almost anything on damaged bytes (OSError, SyntaxError, ValueError, struct.error,
    # zlib.error, DecompressionBombError, …). Whichever it is, this image is skipped and the others are not.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UndecodableImageError(_kind(data) if "cannot identify" in reason else reason) from error


def _kind(data: bytes | None) -> str:
    if data is not None and not data:
        return "an empty file"
    for position, mark, kind in FOREIGN:
        if data is not None and data[position : position + len(mark)] == mark:
            if kind == TIFF:
                return "TIFF with pixels of a type that Pillow does not read; convert it"
            return f"{kind}, not a PNG, JPEG, BMP, TIFF or WebP image; convert it"
    return "not a PNG, JPEG, BMP, TIFF or WebP image"


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 if there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF blocks are damaged in as many ways as images are
        return 1
    return value if isinstance(value, int) else 1


def _without_text(data: bytes) -> bytes:
    """Return a PNG file without its text; any other file as it is."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    kept, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in PNG_TEXT:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def _halve_transparency(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG to the 8 bits per channel that Pillow decodes it into."""
    colour = image.info.get("transparency")
    if isinstance(colour, int) and image.mode == "L":  # grey of 2 or 4 bits is scaled to 8, but not this
        raw = str(image.tile[0][3]) if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
        image.info["transparency"] = colour * {"L;2": 85, "L;4": 17}.get(raw, 1)
    tiles = getattr(image, "tile", None)
    if image.mode == "RGB" and isinstance(colour, tuple) and tiles and "16" in str(tiles[0][3]):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _flatten(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit L or RGB, with white behind transparency."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _flatten_deep(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _flatten_deep(image: Image.Image) -> Image.Image:
    """Convert grey of more than 8 bits to mode L; Pillow would clip it at 255."""
    deep = np.asarray(image)
    tags: Mapping[int, Any] = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    bits = tags.get(BITS, (16,))[0]
    if image.mode == "I" and bits == 32 and tags.get(SAMPLE_FORMAT, (UNSIGNED,))[0] == UNSIGNED:
        deep = deep.view(np.uint32)
    eight = _to_8_bits(deep, bits)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # for 8 bits Pillow sees to this
        eight = np.uint8(255) - eight
    if isinstance(image.info.get("transparency"), int):
        eight = np.where(deep == image.info["transparency"], np.uint8(255), eight)
    return Image.fromarray(eight)


def _to_8_bits(deep: NDArray[Any], bits: int = 16) -> Pixels:
    """Convert grey of more than 8 bits, (h, w) of any number type, to uint8; what is negative becomes black.

    Integers of up to 16 bits are scaled by their range. Other types do not tell their range: the smallest one of
    FULL_RANGES that holds the values is taken, and said.

    Raises:
        UndecodableImageError: there are pixels that are no numbers.
    """
    if deep.dtype.kind == "f" and not np.isfinite(deep).all():
        raise UndecodableImageError("pixels that are NaN or infinite")
    if deep.dtype.itemsize == 2:
        white = 2**bits - 1
    else:
        real = deep.dtype.kind == "f"
        ranges = FULL_RANGES if real else FULL_RANGES[1:]
        largest = float(deep.max(initial=0)) / (OVERSHOOT if real else 1)
        white = next((value for value in ranges if largest <= value), ranges[-1])
        kind = "floats" if real else "32 bits, or with a sign,"
        note(f"grey images of {kind} do not tell which value is white; some are taken to have {white:,}")
    if white == 65535 and deep.dtype.kind in "iu":
        # v / 257, rounded, in integers: a small file may hold many pixels
        small: Pixels = ((np.clip(deep, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return small
    scaled: Pixels = np.clip(np.rint(deep * (255 / white)), 0, 255).astype(np.uint8)
    return scaled
