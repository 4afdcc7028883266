"""A trained network in the ONNX format, which onnxruntime runs on every engine; nothing else of it is needed."""

from __future__ import annotations

import hashlib
import platform
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Pixels, Singles
from common.blas import blas_threads
from common.data.decode import PixelFormat
from common.data.imagenet import PHOTOGRAPH_SIDE, usual_normalisation
from common.errors import InputError
from common.features.feature_map import FieldsOnly, Shape

BATCH = 8
"""Images per run of a network that takes any number: more are no faster on a processor's core."""

SESSIONS = 2
"""The largest number of networks that a process keeps loaded."""

PREPROCESSING = ("mean", "deviation")
"""The keys of an ONNX file's metadata that are used: one number per channel, with slashes between."""

SUFFIX = ".onnx"

NOWHERE = "/nonexistent"

SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")

Reference = Callable[[Pixels], Singles]
"""Embeds images by another runtime: uint8 (n, height, width, channels) to float32 (n, d)."""


@dataclass(frozen=True, eq=False)
class NetworkFile(FieldsOnly):
    """A network that embeds images.

    Attributes:
        name: how it was asked for.
        model: the ONNX file, uint8 (bytes,).
        shape: (height, width, channels) of the images that it takes.
        mean: subtracted from intensities in [0, 1], one number per channel.
        deviation: what these are then divided by.
        reference: embeds by the runtime that the file was exported from; None if it is not at hand.
        decoded_into: the format of the images that the network was trained on; None for colour of its size.
    """

    name: str
    model: NDArray[np.uint8]
    shape: Shape
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    reference: Reference | None = None
    decoded_into: PixelFormat | None = None

    @classmethod
    def of(
        cls,
        name: str,
        model: bytes,
        size: tuple[int, int] | None = None,
        mean: tuple[float, ...] | None = None,
        deviation: tuple[float, ...] | None = None,
        reference: Reference | None = None,
        decoded_into: PixelFormat | None = None,
    ) -> NetworkFile:
        """Take an ONNX file.

        Args:
            name: how it was asked for.
            model: the file.
            size: (height, width) of its images, for a network that takes any; None for those of photographs.
            mean: see above; None for what the metadata of the file say, or ImageNet's.
            deviation: see above; None for what the metadata of the file say, or ImageNet's.
            reference: see above.
            decoded_into: see above.

        Raises:
            ValueError: it is no network of images, and why.
        """
        array = np.frombuffer(model, np.uint8)
        session = Session(array)
        shape = session.image_shape(size)
        channels, noted = shape[2], session.noted()
        usual_mean, usual_deviation = usual_normalisation(channels)
        mean = mean or noted.get("mean") or usual_mean
        deviation = deviation or noted.get("deviation") or usual_deviation
        if not len(mean) == len(deviation) == channels:
            raise ValueError(f"it takes {channels} channels; give one mean and one deviation for each")
        if min(deviation) <= 0:
            raise ValueError("deviations must be above 0")
        return cls(name, array, shape, mean, deviation, reference, decoded_into)

    @property
    def pixel_format(self) -> PixelFormat:
        """The format to decode files into for this network."""
        return self.decoded_into or PixelFormat(self.shape[:2], grey=self.shape[2] == 1)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file."""
        return hashlib.sha256(self.model.data).hexdigest()

    @property
    def channels_last(self) -> bool:
        """True if its input is (n, height, width, channels)."""
        return session_of(self).channels_last

    @property
    def output(self) -> str:
        """The name of the output that has a row of numbers per image."""
        return session_of(self).output(self.shape)

    def embed(self, pixels: Pixels) -> Singles:
        """Embed images: uint8 (n, height, width, channels or 1) to float32 (n, d)."""
        scale = np.array([1 / (255 * deviation) for deviation in self.deviation], np.float32)
        shift = np.array([-m / s for m, s in zip(self.mean, self.deviation, strict=True)], np.float32)
        return session_of(self).embed(pixels, scale, shift)


def numbers(text: str) -> tuple[float, ...]:
    """Parse numbers with slashes between.

    Raises:
        ValueError: these are none.
    """
    try:
        found = tuple(float(word) for word in text.split("/"))
    except ValueError:
        found = ()
    if not found or not np.isfinite(found).all():
        raise ValueError(f"{text!r} is no list of numbers such as 0.485/0.456/0.406")
    return found


@dataclass(frozen=True)
class NetworkRequest:
    """A network as a spec names it.

    Attributes:
        name: of a network, a run folder or an ONNX file.
        root: see NetworkFeatures.
        size: see NetworkFile.of, as for the others.
        mean: of intensities.
        deviation: of intensities.
    """

    name: str
    root: bool = False
    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> NetworkRequest:
        """Parse what follows "network:".

        Raises:
            ValueError: it names nothing, or has an option that there is not.
        """
        name, *options = text.split(",")
        given: dict[str, Any] = {}
        for option in options:
            key, equals, value = option.partition("=")
            if key in given:
                raise ValueError(f"{key} of network is given twice")
            if option == "root":
                given[key] = True
            elif key in PREPROCESSING and equals:
                given[key] = numbers(value)
            elif key == "size" and (match := SIZE.fullmatch(value)):
                given[key] = int(match[1]), int(match[2])
            else:
                raise ValueError(
                    f"network has no option {option!r}; it has root, size=HxW, mean=A/B/C, deviation=A/B/C"
                )
        if not name:
            raise ValueError("network: names no network")
        return cls(name, **given)

    @property
    def is_file(self) -> bool:
        """True if it names an ONNX file."""
        return self.name.endswith(SUFFIX)


class Session:
    """A network that is loaded.

    Args:
        model: an ONNX file.

    Raises:
        InputError: onnxruntime is not installed where this runs.
        ValueError: onnxruntime cannot load it, or it takes something else than images.
    """

    def __init__(self, model: NDArray[np.uint8]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                f"onnxruntime is not installed on {platform.node()}, where images are embedded; install it"
            ) from error

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = blas_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Weights in files beside it would neither travel nor be part of the digest: they are looked for in a
        # folder that is not there, instead of the current one.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model.tobytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of classes that onnxruntime makes up
            raise ValueError(f"onnxruntime cannot load it ({_first_line(error)})") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise ValueError(f"it has {len(inputs)} inputs ({names}); export it with one, the images")
        self._name, lengths = inputs[0].name, list(inputs[0].shape)
        if inputs[0].type != "tensor(float)" or len(lengths) != 4:
            raise ValueError(f"its input is {inputs[0].type} of {lengths}; images in float32 are wanted")
        self.channels_last = lengths[1] not in (1, 3) and lengths[3] in (1, 3)
        _, *self._lengths = [lengths[i] for i in ((0, 1, 2, 3) if self.channels_last else (0, 2, 3, 1))]
        if self._lengths[2] not in (1, 3):
            raise ValueError(f"its input is {lengths}, without an axis of 1 or 3 channels")
        self._batch = lengths[0] if isinstance(lengths[0], int) else BATCH
        self._fixed_batch = isinstance(lengths[0], int)
        self._output: str | None = None

    def noted(self) -> dict[str, tuple[float, ...]]:
        """Return the mean and the deviation that the metadata of the file name, if they do."""
        found = self._session.get_modelmeta().custom_metadata_map
        return {key: numbers(found[key]) for key in PREPROCESSING if key in found}

    def image_shape(self, size: tuple[int, int] | None) -> Shape:
        """Return (height, width, channels) of its images, those of `size` if it takes any.

        Raises:
            ValueError: it takes others.
        """
        wanted = size or (PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE)
        height, width = (
            own if isinstance(own, int) else given for own, given in zip(self._lengths, wanted, strict=False)
        )
        if size is not None and size != (height, width):
            raise ValueError(f"it takes images of {height}x{width}, not {size[0]}x{size[1]}")
        shape = height, width, self._lengths[2]
        self.embed(np.zeros((1, *shape), np.uint8), np.float32(1), np.float32(0))
        return shape

    def embed(self, pixels: Pixels, scale: Any, shift: Any) -> Singles:
        """Embed images whose intensities, 0 to 255, are multiplied by `scale` and moved by `shift` first.

        Args:
            pixels: uint8 (n, height, width, channels or 1).
            scale: float32, one number per channel.
            shift: float32, one number per channel.

        Returns:
            float32 (n, d).

        Raises:
            ValueError: it cannot take these images, or does not make one row of numbers of each.
        """
        found = []
        for start in range(0, len(pixels), self._batch):
            own = pixels[start : start + self._batch]
            if own.shape[3] == 1 and self._lengths[2] == 3:
                own = np.repeat(own, 3, axis=3)
            x = own.astype(np.float32)
            x *= scale
            x += shift
            if self._fixed_batch and len(x) < self._batch:
                x = np.concatenate([x, np.zeros((self._batch - len(x), *x.shape[1:]), np.float32)])
            found.append(self._run(x)[: len(own)])
        return np.concatenate(found) if found else np.empty((0, self._run_width(pixels.shape)), np.float32)

    def output(self, shape: Shape) -> str:
        """Return the name of the output that has a row of numbers per image of this shape."""
        if self._output is None:
            self.embed(np.zeros((1, *shape), np.uint8), np.float32(1), np.float32(0))
        return str(self._output)

    def _run_width(self, shape: tuple[int, ...]) -> int:
        zeros = np.zeros((self._batch if self._fixed_batch else 1, *shape[1:3], self._lengths[2]), np.float32)
        return int(self._run(zeros).shape[1])

    def _run(self, x: Singles) -> Singles:
        """Embed preprocessed images, float32 (n, height, width, channels)."""
        x = np.ascontiguousarray(x if self.channels_last else x.transpose(0, 3, 1, 2))
        try:
            outputs = self._session.run(None if self._output is None else [self._output], {self._name: x})
        except Exception as error:  # as above
            raise ValueError(f"it cannot take images of {x.shape[1:]} ({_first_line(error)})") from error
        if self._output is None:
            names = [one.name for one in self._session.get_outputs()]
            rows = [i for i, output in enumerate(outputs) if _is_rows(output, len(x))]
            if not rows:
                shapes = ", ".join(
                    f"{name} {getattr(o, 'shape', '?')}" for name, o in zip(names, outputs, strict=True)
                )
                raise ValueError(f"none of its outputs has one row of numbers per image: {shapes}")
            self._output = names[rows[0]]
            outputs = [outputs[rows[0]]]
        return outputs[0].reshape(len(x), -1)  # type: ignore[no-any-return]


def _is_rows(output: Any, n: int) -> bool:
    """Return whether an output is float32 (n, d), or (n, d, 1, 1)."""
    if not isinstance(output, np.ndarray) or output.dtype != np.float32 or output.ndim < 2:
        return False
    return bool(output.shape[0] == n and output.size == n * output.shape[1])


_sessions: OrderedDict[tuple[str, int], Session] = OrderedDict()
"""The networks that this process has loaded, by their digests and numbers of threads."""


def session_of(network: NetworkFile) -> Session:
    """Return a loaded network; a process loads it once."""
    key = network.digest, blas_threads()
    if key not in _sessions:
        _sessions[key] = Session(network.model)
        while len(_sessions) > SESSIONS:
            _sessions.popitem(last=False)
    _sessions.move_to_end(key)
    return _sessions[key]


def check_shape(network: NetworkFile, shape: tuple[int, ...]) -> None:
    """Refuse images that a network cannot take.

    Raises:
        ValueError: says which it takes.
    """
    height, width, channels = network.shape
    if tuple(shape[:2]) != (height, width) or shape[2] not in (1, channels):
        own, wanted = "x".join(map(str, shape)), f"{height}x{width}"
        raise ValueError(f"{network.name} takes images of {wanted}x{channels}, not {own}; use --size {wanted}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
