"""The feature map that --features names, learnt or read from a file."""

from __future__ import annotations

from pathlib import Path

from common.data.table.table import MANIFEST
from common.errors import InputError
from common.features.feature_map import FeatureMap, Shape
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
