"""From decoded pixels to the input of a network: one definition, shared by training and prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.arrays import Pixels
from common.data.decode import PixelFormat
from common.data.imagenet import usual_normalisation

AUGMENTATIONS = ("flip", "crop")
SMALLEST_CROP = 0.5
"""The smallest share of an image's area that a random crop keeps."""
STRETCH = 4 / 3
"""The largest factor by which a random crop's proportions differ from the image's."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image file to the input of a network.

    Attributes:
        pixel_format: what files are decoded into.
        mean: subtracted from intensities in [0, 1]; one value per channel of the network. Grey images are repeated
            for each channel.
        deviation: what intensities are then divided by; one value per channel.
    """

    pixel_format: PixelFormat
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def for_channels(cls, pixel_format: PixelFormat, channels: int) -> Preprocessing:
        """Return the usual preprocessing for a network of 1 or 3 channels."""
        return cls(pixel_format, *usual_normalisation(channels))

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing that described() wrote.

        Raises:
            KeyError, TypeError, ValueError: `described` is something else.
        """
        mean, deviation = (tuple(map(float, described[key])) for key in ("mean", "deviation"))
        return cls(PixelFormat.of(described["form"]), mean, deviation)

    def described(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"form": self.pixel_format.described(), "mean": self.mean, "deviation": self.deviation}

    def __str__(self) -> str:
        values = zip(self.mean, self.deviation, strict=True)
        normalised = ", ".join(f"{mean:g} ± {deviation:g}" for mean, deviation in values)
        return f"{self.pixel_format}, normalised by {normalised}"

    def tensor(self, pixels: Pixels, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return a batch as the network takes it.

        Args:
            pixels: uint8 (n, height, width, 1 or channels).
            device: the device of the result; bytes travel there, not floats.
            dtype: the type of the result.

        Returns:
            normalised images (n, channels, height, width), channels last in memory.
        """
        return self.normalise(self.numbers(pixels, device, dtype))

    def numbers(self, pixels: Pixels, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return pixels, 0 to 255, on a device and of a type, in their shape."""
        # writable, because torch warns of arrays that it cannot write to
        raw = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
        if device.type == "cuda":
            raw = raw.pin_memory().to(device, non_blocking=True)
        return raw.to(dtype)

    def normalise(self, numbers: Tensor) -> Tensor:
        """Return normalised (n, channels, height, width) of (n, height, width, 1 or channels), 0 to 255."""
        # x/255 normalised is x·scale + shift
        scale = numbers.new_tensor([1 / (255 * s) for s in self.deviation])
        shift = numbers.new_tensor([-m / s for m, s in zip(self.mean, self.deviation, strict=True)])
        return torch.addcmul(shift, numbers, scale).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images, which depend on the seed, the epoch and the image alone.

    Attributes:
        flip: whether to mirror half of the images.
        crop: whether to take a part of each image, of at least half its area and nearly its proportions, and
            resize it to the size of the image.
        seed: the seed of the run.
    """

    flip: bool
    crop: bool
    seed: int

    def __call__(self, pixels: Pixels, epoch: int, index: int) -> Pixels:
        """Return one image, changed.

        Args:
            pixels: uint8 (height, width, channels).
            epoch: the epoch, from 0.
            index: the image's number among the images of the run.

        Returns:
            uint8 (height, width, channels).
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
