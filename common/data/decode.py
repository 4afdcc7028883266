"""Image bytes to uint8 pixels: the one place that knows EXIF, colour modes, sizes, bombs and corrupt files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from common.arrays import Pixels

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

# Pillow warns of odd metadata; only pixels matter here. Once and for all, because threads decode side by side.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_PIXELS = 64_000_000
"""Width times height above which a file is refused from its header, before any pixel is allocated."""


Stages = Mapping[str, Callable[[Any, "PixelFormat"], Any]]
"""What is done one after the other to the bytes of a file, until they are pixels: what each takes, the one before
returned."""


class UndecodableImageError(Exception):
    """The bytes do not hold an image that can be used; the message is the reason."""


@dataclass(frozen=True)
class PixelFormat:
    """What every image of a run is turned into.

    Attributes:
        size: (height, width) to resize to, or None to take images as they are.
        grey: one channel of luminance instead of three of colour.
        binarize: fraction of full intensity from which a grey pixel counts as white (255), below as 0.
        crop: of a picture with other proportions than `size`, take the largest part in its centre that has
            them, instead of squeezing it.
    """

    size: tuple[int, int] | None = None
    grey: bool = False
    binarize: float | None = None
    crop: bool = False

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> PixelFormat:
        """What dataclasses.asdict made of one, as JSON gives it back.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        size = described["size"]
        height, width = size or (0, 0)
        form = cls((height, width) if size else None, described["grey"], described["binarize"])
        return replace(form, crop=described.get("crop", False))  # which older descriptions do not mention

    @property
    def channels(self) -> int:
        """1 for grey or binarized images, 3 for colour."""
        return 1 if self.grey or self.binarize is not None else 3

    @property
    def mode(self) -> str:
        """Pillow's name for images of so many channels."""
        return "L" if self.channels == 1 else "RGB"

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """What an image of this height and width is resized to: `size`, or what just covers it, to be cropped.

        Of squares, resizing and cropping is, pixel by pixel, torchvision's Resize(side) and CenterCrop(side).

        Raises:
            UndecodableImageError: it is so thin that what covers `size` would have more than MAX_PIXELS pixels.
        """
        if self.size is None:
            return height, width
        to_height, to_width = self.size
        if not self.crop or (height, width) == self.size:
            return self.size
        if to_height * width >= to_width * height:  # the image is the wider of the two
            to_width = to_height * width // height
        else:
            to_height = to_width * height // width
        if to_height * to_width > MAX_PIXELS:
            raise UndecodableImageError(f"{width}×{height} pixels, too thin to take a part of {self} from")
        return to_height, to_width

    def centre(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that are left of an image that was resized to this height and width."""
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


def decode(data: bytes, form: PixelFormat, stages: Stages | None = None) -> Pixels:
    """Decode one image file.

    Args:
        data: the bytes of a PNG, JPEG, BMP, TIFF or WebP file; of several frames, the first counts.
        form: what to turn it into.
        stages: how; None for STAGES.

    Returns:
        uint8 (height, width, channels).

    Raises:
        UndecodableImageError: not such a file, truncated, or more than MAX_PIXELS pixels.
    """
    made: Any = data
    with _blamed():
        for stage in (STAGES if stages is None else stages).values():
            made = stage(made, form)
    pixels: Pixels = made
    return pixels


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        height: of it, as it is stored.
        width: of it.
        upright: whether it needs no turning.
    """

    height: int
    width: int
    upright: bool


def header(file: BinaryIO | Path) -> Header:
    """What the first bytes of an image file say.

    Raises:
        UndecodableImageError: it is no such file, or has more than MAX_PIXELS pixels.
    """
    with _blamed(), _opened(file) as image:
        return Header(image.height, image.width, image.getexif().get(ExifTags.Base.Orientation, 1) == 1)


@contextmanager
def _opened(file: BinaryIO | Path) -> Iterator[Image.Image]:
    """An image of an allowed kind and size, its pixels not read yet."""
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UndecodableImageError(f"{width}×{height} pixels, more than the {MAX_PIXELS:,} that are allowed")
        yield image


@contextmanager
def _blamed() -> Iterator[None]:
    """Whatever goes wrong is the image's fault.

    Raises:
        UndecodableImageError: something does.
    """
    try:
        yield
    except UndecodableImageError:
        raise
    # Pillow's plugins raise almost anything on damaged bytes (OSError, SyntaxError, ValueError, struct.error,
    # zlib.error, DecompressionBombError, ...): whatever it was, the image is unusable and the rest are not.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UndecodableImageError(
            "not a PNG, JPEG, BMP, TIFF or WebP image" if "cannot identify" in reason else reason
        ) from error


def reformat(pixels: Pixels, form: PixelFormat) -> Pixels:
    """Bring images that are already decoded into `form`: uint8 (n, h, w, c) to uint8 (n, h', w', c')."""
    if form == PixelFormat():
        return pixels
    images = (Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels)
    # an image without colour stays at one channel: three copies of it would say nothing more
    form = replace(form, grey=form.grey or pixels.shape[3] == 1)
    height, width = form.size or pixels.shape[1:3]
    out = np.empty((len(pixels), height, width, form.channels), np.uint8)
    for i, image in enumerate(images):
        out[i] = _to_bytes(_crop(_resize(_in_mode(image, form), form), form), form)
    return out


# Stages: from bytes to an upright image in the form's mode, to its size, to its part, to bytes.


def _load(data: bytes, form: PixelFormat) -> Image.Image:
    with _opened(io.BytesIO(data)) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # which copies nothing where there is nothing to turn
        return _in_mode(_flatten(image), form)


def _in_mode(image: Image.Image, form: PixelFormat) -> Image.Image:
    return image if image.mode == form.mode else image.convert(form.mode)


def _resize(image: Image.Image, form: PixelFormat) -> Image.Image:
    if form.size is None:
        return image
    height, width = form.resized(image.height, image.width)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _crop(image: Image.Image, form: PixelFormat) -> Image.Image:
    if form.size is None or image.size == (form.size[1], form.size[0]):
        return image
    rows, columns = form.centre(image.height, image.width)
    return image.crop((columns.start, rows.start, columns.stop, rows.stop))


def _to_bytes(image: Image.Image, form: PixelFormat) -> Pixels:
    pixels = np.asarray(image, np.uint8)
    if form.binarize is not None:
        pixels = np.where(pixels >= form.binarize * 255, np.uint8(255), np.uint8(0))
    return pixels.reshape(*pixels.shape[:2], form.channels)


STAGES: Stages = {"decode": _load, "resize": _resize, "crop": _crop, "to bytes": _to_bytes}
"""The usual ones."""


def _flatten(image: Image.Image) -> Image.Image:
    """Any mode to 8-bit L or RGB, transparency over white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _to_8_bits(deep: NDArray[Any]) -> Pixels:
    """Grey of more than 8 bits, (h, w) of any number type, to uint8: Pillow would clip it at 255.

    16-bit integers are scaled by their range. Floats have none: in [0, 1] they are intensities, beyond it
    they are taken as 8-bit values.
    """
    values = deep
    largest = values.max(initial=0)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise UndecodableImageError("pixels that are NaN or infinite")
        values = np.clip(np.rint(values * 255 if largest <= 1 else values), 0, 255)
    elif values.dtype.itemsize == 2 or largest > 255:
        # v / 257, rounded, in integers: a file may be small and its pixels many
        values = (np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257
    eight: Pixels = np.clip(values, 0, 255).astype(np.uint8)
    return eight
