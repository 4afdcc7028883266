"""The feature map that --features names, learnt or read from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from common.data.table.table import MANIFEST
from common.errors import InputError
from common.features.feature_map import FeatureMap, Shape
from common.features.network_file import NetworkFile, NetworkRequest
from common.features.spec import FeatureSpec, Sampled
from common.ridge.model import RidgeModel
from common.ridge.moments_file import SavedMoments


def feature_map(spec: FeatureSpec, images: Sampled, seed: int) -> FeatureMap:
    """Return the map of --features, learnt from training images or taken from a file.

    Raises:
        InputError: there is no such file, or the map does not fit the images.
    """
    if spec.path is None:
        return spec.learn(images, seed)
    try:
        features, shape = _saved(spec.path)
    except InputError as error:
        raise InputError(
            f"--features {spec.text}: a run of a ridge job, a moments file or a table of features is wanted "
            f"({error})"
        ) from error
    if shape != images.shape:
        learnt, own = ("x".join(map(str, lengths)) for lengths in (shape, images.shape))
        raise InputError(f"--features {spec.text}: learnt from images of {learnt}, and these are {own}")
    return features


def with_network(spec: FeatureSpec) -> FeatureSpec:
    """Return a spec with the networks that it names, read or exported; other specs as they are.

    Raises:
        InputError: there is no such network, or it takes something else than images.
    """
    if spec.parts:
        return replace(spec, parts=tuple(map(with_network, spec.parts)))
    if spec.network is None:
        return spec
    try:
        return spec.with_network(network_file(spec.network))
    except ValueError as error:
        raise InputError(f"--features {spec.text}: {error}") from error


def network_file(request: NetworkRequest, weights: Path | None = None) -> NetworkFile:
    """Read an ONNX file, or export a network of torch's.

    Args:
        request: the network.
        weights: weights of a classifier of torchvision that the request names; None for other networks.

    Raises:
        InputError: there is none.
        ValueError: it takes something else than images.
    """
    if request.is_file:
        path = Path(request.name)
        try:
            model = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        return NetworkFile.of(path.name, model, request.size, request.mean, request.deviation)
    if request.size or request.mean or request.deviation:
        raise ValueError("size, mean and deviation are for ONNX files: this network has its own")
    try:
        # these need torch, which other maps do not
        from common.nets.backbones import backbone, weighted_backbone
    except ImportError as error:
        raise InputError(
            f"--features network:{request.name}: networks are exported by PyTorch, which is not installed; make "
            "setup, or name an ONNX file"
        ) from error
    found = backbone(request.name) if weights is None else weighted_backbone(request.name, weights)
    return NetworkFile.of(
        Path(request.name).name,
        found.onnx(),
        reference=found.embed,
        decoded_into=found.preprocessing.pixel_format,
    )


def _saved(path: Path) -> tuple[FeatureMap, Shape]:
    """Return the map of a run folder, a table or a moments file, and the shape of its images."""
    if (path / MANIFEST).is_file():
        # Imported here, because other maps need no pyarrow.
        from common.data.storage import Storage
        from common.data.table.table import Table
        from common.features.table import map_of_table

        stored = map_of_table(Table.open(Storage.at(str(path))))
        if stored is None:
            raise InputError(f"{path}: a table of images, which has no map")
        return stored.computed_by, stored.image_shape
    if path.is_dir():
        model = RidgeModel.load(path)
        return model.features, model.shape
    basis = SavedMoments.load(path).basis
    return basis.features, basis.shape
