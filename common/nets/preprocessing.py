"""From decoded pixels to what a network is fed: one definition, which training and prediction share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.arrays import Pixels
from common.data.decode import PixelFormat

COLOUR_MEAN, COLOUR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's intensities in [0, 1], which torchvision's networks were trained on."""
GREY_MEAN, GREY_DEVIATION = (0.459,), (0.226,)
"""The same of their luminance."""

PHOTOGRAPH_SIDE = 224
"""What photographs are resized and cropped to where nobody asks for another size."""

AUGMENTATIONS = ("flip", "crop")
SMALLEST_CROP = 0.5
"""Of an image's area, what a random crop keeps at least."""
STRETCH = 4 / 3
"""By how much a random crop may differ from the image's proportions."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to every image.

    Attributes:
        pixel_format: what files are decoded into.
        mean: taken off the intensities in [0, 1]; one value a channel of the network's, which grey images are
            repeated for.
        deviation: what they are then divided by.
    """

    pixel_format: PixelFormat
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def for_channels(cls, pixel_format: PixelFormat, channels: int) -> Preprocessing:
        """The usual one for a network of 1 or 3 channels."""
        if channels == 1:
            return cls(pixel_format, GREY_MEAN, GREY_DEVIATION)
        return cls(pixel_format, COLOUR_MEAN, COLOUR_DEVIATION)

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Preprocessing:
        """What described() made of one.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        pixel_format = PixelFormat.of(described["form"])
        return cls(pixel_format, tuple(map(float, described["mean"])), tuple(map(float, described["deviation"])))

    def described(self) -> dict[str, Any]:
        """As plain values, for a checkpoint."""
        values = asdict(self)
        return {"form": values.pop("pixel_format")} | values  # as checkpoints have always called it

    def __str__(self) -> str:
        values = zip(self.mean, self.deviation, strict=True)
        return f"{self.pixel_format}, normalised by " + ", ".join(
            f"{mean:g} ± {deviation:g}" for mean, deviation in values
        )

    def tensor(self, pixels: Pixels, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Numbers of a batch, normalised.

        Args:
            pixels: uint8 (n, height, width, 1 or channels).
            device: where the result is wanted; bytes travel there, not floats.
            dtype: of the result.

        Returns:
            (n, channels, height, width), in memory a pixel's channels side by side.
        """
        return self.normalise(self.numbers(pixels, device, dtype))

    def numbers(self, pixels: Pixels, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The same numbers as pixels, 0 to 255, where and of the kind that they are wanted."""
        raw = torch.from_numpy(
            np.require(pixels, requirements=["C", "W"])
        )  # torch warns of what it cannot write to
        if device.type == "cuda":
            raw = raw.pin_memory().to(device, non_blocking=True)
        return raw.to(dtype)

    def normalise(self, numbers: Tensor) -> Tensor:
        """(n, height, width, 1 or channels) of 0 to 255 to (n, channels, height, width), normalised."""
        # x/255 normalised is x·scale + shift
        scale = numbers.new_tensor([1 / (255 * s) for s in self.deviation])
        shift = numbers.new_tensor([-m / s for m, s in zip(self.mean, self.deviation, strict=True)])
        return torch.addcmul(shift, numbers, scale).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images, which depend on nothing but the seed, the epoch and the image.

    Attributes:
        flip: mirror half of them.
        crop: take a part of each, of at least half its area and of nearly its proportions, at its size.
        seed: of the run.
    """

    flip: bool
    crop: bool
    seed: int

    def __call__(self, pixels: Pixels, epoch: int, index: int) -> Pixels:
        """One image, uint8 (height, width, channels), changed.

        Args:
            pixels: of it.
            epoch: from 0.
            index: its number among the images of the run.
        """
        rng = np.random.default_rng([self.seed, epoch, index])
        if self.crop:
            height, width, channels = pixels.shape
            area = rng.uniform(SMALLEST_CROP, 1.0)
            stretch = np.exp(rng.uniform(-np.log(STRETCH), np.log(STRETCH)) / 2)
            part_height, part_width = (
                min(side * np.sqrt(area) * by, side) for side, by in ((height, stretch), (width, 1 / stretch))
            )
            top, left = rng.uniform(0, height - part_height), rng.uniform(0, width - part_width)
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            part = image.resize(
                (width, height), Image.Resampling.BILINEAR, (left, top, left + part_width, top + part_height)
            )
            pixels = np.asarray(part).reshape(pixels.shape)
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return pixels
