"""LoadedModel: one interface to ridge classifiers and networks, on whatever images a program has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.arrays import Pixels
from common.data.decode import PixelFormat, decode, reformat
from common.data.pillow import UndecodableImageError, errors_of_the_image, upright
from common.errors import InputError, UnusableImagesError
from common.ridge.model import RidgeModel, is_model

CHECKPOINTS = ("best.pt", "last.pt")
"""The files of a network in a run folder."""

BATCH = 256
"""Images that are decoded and scored at once."""

ImagesLike = str | os.PathLike[str] | Image.Image | NDArray[Any] | Iterable[Any]
"""A path, an image of Pillow's, an array, or any iterable of these; arrays are uint8, with or without channels."""

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LoadedModel:
    """A fitted classifier.

    Attributes:
        class_names: the names of its classes, in the order of scores.
        shape: (height, width, channels) of the images that it takes, which others are brought to.
        pixel_format: what files are decoded into.
        score_pixels: scores decoded images, uint8 (n, height, width, channels): floats (n, n_classes).
    """

    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    pixel_format: PixelFormat
    score_pixels: Callable[[Pixels], Scores]

    def predict(self, images: ImagesLike) -> NDArray[np.str_]:
        """Return the name of the class with the highest score of each image, (n,).

        Args:
            images: see `scores`.

        Raises:
            ValueError: an image cannot be used; the message names it.
        """
        best = [scores.argmax(axis=1) for scores in self._batches(images)]
        names: NDArray[np.str_] = np.array(self.class_names)[np.concatenate([np.empty(0, np.int64), *best])]
        return names

    def scores(self, images: ImagesLike) -> Scores:
        """Return the scores of images: float64 (n, n_classes) by a ridge classifier, float32 by a network.

        A ridge classifier's lie about −1 and 1; a network's are logits.

        Args:
            images: paths of files, images of Pillow's, or arrays of uint8 (height, width) or (height, width,
                channels), of any size; one of these, or an iterable, which is read in batches.

        Raises:
            ValueError: an image cannot be used; the message names it.
        """
        found = list(self._batches(images))
        return np.concatenate(found) if found else np.empty((0, len(self.class_names)))

    def _batches(self, images: ImagesLike) -> Iterator[Scores]:
        """Yield the scores of images, a batch at a time."""
        named = enumerate(_each(images))
        while batch := list(islice(named, BATCH)):
            pixels = np.stack([self._pixels(image, _name(image, i)) for i, image in batch])
            try:
                yield self.score_pixels(pixels)
            except UnusableImagesError as error:
                raise ValueError(str(error.named([_name(image, i) for i, image in batch]))) from error

    def _pixels(self, image: Any, name: str) -> Pixels:
        """Return an image as the model takes it, uint8 (height, width, channels)."""
        if isinstance(image, str | os.PathLike):
            try:
                pixels = decode(Path(image).read_bytes(), self.pixel_format)
            except UndecodableImageError as error:
                raise ValueError(f"{name}: {error}") from error
            except OSError as error:
                raise ValueError(f"{name}: cannot be read ({error.strerror or error})") from error
        else:
            array = _array(image, name)
            if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)):
                raise ValueError(f"{name}: {array.dtype} {array.shape}; uint8, grey or RGB, is wanted")
            whole = array.reshape(1, *array.shape[:2], -1)
            pixels = self._reformatted(whole)[0]
        if pixels.shape != self.shape:
            own, wanted = ("×".join(map(str, shape)) for shape in (pixels.shape, self.shape))
            raise ValueError(f"{name}: {own}, and the model is for {wanted}")
        return pixels

    def _reformatted(self, pixels: Pixels) -> Pixels:
        found = reformat(pixels, self.pixel_format)
        missing = self.shape[2] - found.shape[3]
        return found if missing <= 0 else np.repeat(found, self.shape[2], axis=3)  # grey in three channels


def load(run: str | os.PathLike[str]) -> LoadedModel:
    """Load the model of a run folder: a ridge classifier of any engine, or a network.

    Args:
        run: the run folder, or of a network also a checkpoint.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: it holds no model, or a damaged one.
        ImportError: it holds a network, and PyTorch is not installed.
    """
    path = Path(run)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run folder")
    if path.is_dir() and not is_model(path) and not any((path / name).exists() for name in CHECKPOINTS):
        raise ValueError(f"{path}: no model in it; name the run folder of a ridge job or of train_cnn.py")
    try:
        return _ridge(path) if path.is_dir() and is_model(path) else _network(path)
    except InputError as error:
        raise ValueError(str(error)) from error


def file_format(model: RidgeModel) -> PixelFormat:
    """Return what files are decoded into; a model of grey images in memory, such as digits, does not say it."""
    return replace(model.pixel_format, grey=model.pixel_format.grey or model.shape[2] == 1)


def _ridge(path: Path) -> LoadedModel:
    model = RidgeModel.load(path)

    def score(pixels: Pixels) -> Scores:
        return np.concatenate([scores for _, scores in model.score_blocks(pixels)])

    return LoadedModel(model.class_names, model.shape, file_format(model), score)


def _network(path: Path) -> LoadedModel:
    from common.nets.trained import TrainedNetwork  # needs PyTorch, which ridge classifiers do not

    network = TrainedNetwork.load(path)
    return LoadedModel(network.classes.names, network.shape, network.preprocessing.pixel_format, network.scorer())


def _each(images: ImagesLike) -> Sequence[Any] | Iterable[Any]:
    """Return images one by one."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.dtype != object and images.ndim < 4 and not _is_stack(images):
        return [images]
    return images


def _is_stack(array: NDArray[Any]) -> bool:
    """Return whether an array of up to three dimensions is grey images (n, h, w), and not one (h, w, channels)."""
    return array.ndim == 3 and array.shape[2] not in (1, 3)


def _array(image: Any, name: str) -> NDArray[Any]:
    """Return an image of Pillow's, or an array, as an array."""
    if not isinstance(image, Image.Image):
        return np.asarray(image)
    try:
        with errors_of_the_image():
            return np.asarray(upright(image))
    except UndecodableImageError as error:
        raise ValueError(f"{name}: {error}") from error


def _name(image: Any, position: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {position + 1}"
