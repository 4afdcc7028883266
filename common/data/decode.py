"""From the bytes of an image file to uint8 pixels.

This is the one place that knows EXIF, colour modes, sizes, decompression bombs and corrupt files.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from common.arrays import Pixels

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

MAX_PIXELS = 64_000_000
"""Width times height above which a file is refused by its header, before any pixel is allocated."""


DecodingSteps = Mapping[str, Callable[[Any, "PixelFormat"], Any]]
"""The steps from the bytes of a file to pixels, by name and in order: each takes the result of the one before."""


class UndecodableImageError(Exception):
    """The bytes do not hold an image that can be used; the message is the reason."""


@dataclass(frozen=True)
class PixelFormat:
    """The format that every image of a run is decoded into.

    Attributes:
        size: (height, width) to resize to, or None to keep the image's own size.
        grey: one channel of luminance instead of three of colour.
        binarize: fraction of full intensity from which a grey pixel becomes white (255); below it, black (0).
        crop: if an image's proportions are not those of `size`, take the largest part in its centre that has
            them instead of squeezing the image.
    """

    size: tuple[int, int] | None = None
    grey: bool = False
    binarize: float | None = None
    crop: bool = False

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> PixelFormat:
        """Restore a pixel format from the output of dataclasses.asdict, after a round trip through JSON.

        Raises:
            KeyError, TypeError, ValueError: `described` is no such output.
        """
        size = described["size"]
        height, width = size or (0, 0)
        found = cls((height, width) if size else None, described["grey"], described["binarize"])
        return replace(found, crop=described.get("crop", False))  # older descriptions lack it

    @property
    def channels(self) -> int:
        """1 for grey or binarized images, 3 for colour."""
        return 1 if self.grey or self.binarize is not None else 3

    @property
    def mode(self) -> str:
        """Pillow's name of images with this number of channels."""
        return "L" if self.channels == 1 else "RGB"

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image of the given ones is resized to.

        This is `size`, or if the image is to be cropped, the smallest size that covers `size`. For a square
        `size`, resizing and cropping equal torchvision's Resize(side) and CenterCrop(side), pixel by pixel.

        Raises:
            UndecodableImageError: the image is so thin that covering `size` takes more than MAX_PIXELS pixels.
        """
        if self.size is None:
            return height, width
        to_height, to_width = self.size
        if not self.crop or (height, width) == self.size:
            return self.size
        if to_height * width >= to_width * height:  # the image has the wider proportions
            to_width = to_height * width // height
        else:
            to_height = to_width * height // width
        if to_height * to_width > MAX_PIXELS:
            raise UndecodableImageError(f"{width}×{height} pixels, too thin to take a part of {self} from")
        return to_height, to_width

    def centre(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns to keep of an image that was resized to this height and width."""
        to_height, to_width = self.size or (height, width)
        top, left = round((height - to_height) / 2), round((width - to_width) / 2)
        return slice(top, top + to_height), slice(left, left + to_width)

    def __str__(self) -> str:
        words = []
        if self.size is not None:
            words.append(f"{self.size[0]}x{self.size[1]}" + (" from the centre" if self.crop else ""))
        if self.binarize is not None:
            words.append(f"binarized at {self.binarize:g}")
        elif self.grey:
            words.append("grey")
        return " ".join(words) or "as they are"


AS_THEY_ARE = PixelFormat()
"""The format that leaves images as they are, in colour."""


@cache
def ignore_pillow_warnings() -> None:
    """Ignore Pillow's warnings of odd metadata in this process, because only pixels matter here.

    warnings.catch_warnings would not do: threads decode side by side, and it changes the filters of all of them.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, pixel_format: PixelFormat, steps: DecodingSteps | None = None) -> Pixels:
    """Decode one image file.

    Args:
        data: the bytes of a PNG, JPEG, BMP, TIFF or WebP file; of several frames, the first counts.
        pixel_format: what to decode it into.
        steps: the decoding steps; None for DECODING_STEPS.

    Returns:
        uint8 (height, width, channels).

    Raises:
        UndecodableImageError: the file is of another kind, truncated, or has more than MAX_PIXELS pixels.
    """
    ignore_pillow_warnings()
    result: Any = data
    with _errors_of_the_image():
        for step in (DECODING_STEPS if steps is None else steps).values():
            result = step(result, pixel_format)
    pixels: Pixels = result
    return pixels


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


def header(file: BinaryIO | Path) -> Header:
    """Read the header of an image file.

    Raises:
        UndecodableImageError: the file is of another kind, or has more than MAX_PIXELS pixels.
    """
    ignore_pillow_warnings()
    with _errors_of_the_image(), _opened(file) as image:
        return Header(image.height, image.width, image.getexif().get(ExifTags.Base.Orientation, 1) == 1)


@contextmanager
def _opened(file: BinaryIO | Path) -> Iterator[Image.Image]:
    """Open an image of an allowed kind and size, without reading its pixels."""
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UndecodableImageError(f"{width}×{height} pixels, more than the {MAX_PIXELS:,} that are allowed")
        yield image


@contextmanager
def _errors_of_the_image() -> Iterator[None]:
    """Turn every error in the block into an UndecodableImageError.

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
        raise UndecodableImageError(
            "not a PNG, JPEG, BMP, TIFF or WebP image" if "cannot identify" in reason else reason
        ) from error


def reformat(pixels: Pixels, pixel_format: PixelFormat) -> Pixels:
    """Bring images in memory into a pixel format: uint8 (n, h, w, c) to uint8 (n, h', w', c')."""
    if pixel_format == PixelFormat():
        return pixels
    images = (Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels)
    # an image without colour keeps its one channel: three copies of it would add nothing
    pixel_format = replace(pixel_format, grey=pixel_format.grey or pixels.shape[3] == 1)
    height, width = pixel_format.size or pixels.shape[1:3]
    out = np.empty((len(pixels), height, width, pixel_format.channels), np.uint8)
    for i, image in enumerate(images):
        resized = _resize(_in_mode(image, pixel_format), pixel_format)
        out[i] = _to_bytes(_crop(resized, pixel_format), pixel_format)
    return out


# The decoding steps: from bytes to an upright image in the format's mode, to its size, to its part, to an array.


def _load(data: bytes, pixel_format: PixelFormat) -> Image.Image:
    with _opened(io.BytesIO(data)) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # copies nothing if the image is upright
        return _in_mode(_flatten(image), pixel_format)


def _in_mode(image: Image.Image, pixel_format: PixelFormat) -> Image.Image:
    return image if image.mode == pixel_format.mode else image.convert(pixel_format.mode)


def _resize(image: Image.Image, pixel_format: PixelFormat) -> Image.Image:
    if pixel_format.size is None:
        return image
    height, width = pixel_format.resized(image.height, image.width)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, pixel_format: PixelFormat) -> Image.Image:
    if pixel_format.size is None or image.size == (pixel_format.size[1], pixel_format.size[0]):
        return image
    rows, columns = pixel_format.centre(image.height, image.width)
    return image.crop((columns.start, rows.start, columns.stop, rows.stop))


def _to_bytes(image: Image.Image, pixel_format: PixelFormat) -> Pixels:
    pixels = np.asarray(image, np.uint8)
    if pixel_format.binarize is not None:
        pixels = np.where(pixels >= pixel_format.binarize * 255, np.uint8(255), np.uint8(0))
    return pixels.reshape(*pixels.shape[:2], pixel_format.channels)


DECODING_STEPS: DecodingSteps = {"decode": _load, "resize": _resize, "crop": _crop, "to bytes": _to_bytes}
"""The plain decoding steps, by Pillow."""


def _flatten(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit L or RGB, with white behind transparency."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_8_bits(deep: NDArray[Any]) -> Pixels:
    """Convert grey of more than 8 bits, (h, w) of any number type, to uint8; Pillow would clip it at 255.

    16-bit integers are scaled by their range. Floats have no range: in [0, 1] they are intensities, beyond it
    they are taken as 8-bit values.
    """
    values = deep
    largest = values.max(initial=0)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise UndecodableImageError("pixels that are NaN or infinite")
        values = np.clip(np.rint(values * 255 if largest <= 1 else values), 0, 255)
    elif values.dtype.itemsize == 2 or largest > 255:
        # v / 257, rounded, in integers: a small file may hold many pixels
        values = (np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257
    eight: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return eight
