from __future__ import annotations

import numpy as np
import pytest

from common.data.catalogue import Catalogue, ReadResult
from common.data.images import Block, CatalogueImages
from common.data.sources.arrays import ArrayReader
from common.data.splits import FoldRule, k_folds, validation_fold
from common.errors import InputError
from common.ridge.fit import Problem
from common.ridge.gram import FEWEST_INT8_FEATURES, BlasProduct, Int8Product, Tile, TiledProduct
from common.ridge.moments import (
    FoldSums,
    fingerprint,
    flatten,
    total,
    training_moments,
    unflatten,
)
from common.ridge.path import ridge_path
from mpi_jobs.engine.world import AgreedError, World
from mpi_jobs.ridge.averaging import Shards
from mpi_jobs.ridge.dealt_problem import DealtProblem, RankSettings
from mpi_jobs.ridge.shares import DELIVERIES, HeldOut, everyones_blocks, own_blocks
from tests.support.moments import moments_by_fold


def images_of(n: int, k: int = 0, height: int = 60, width: int = 50) -> CatalogueImages:
    rng = np.random.default_rng(n)
    labels = rng.integers(0, 4, n)
    reader = ArrayReader("random", rng.integers(0, 256, (n, height, width, 1), np.uint8))
    folds = k_folds(labels, k, 0) if k else validation_fold(labels, 0.3, 0)
    return CatalogueImages(Catalogue(reader, np.arange(n), labels, tuple("abcd")), folds)


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize(("n", "k"), [(2, 0), (3, 2), (50, 0), (51, 5), (6000, 0)])
def test_every_image_goes_to_one_rank(world: World, delivery: str, n: int, k: int) -> None:
    images = images_of(n, k)
    found = list(own_blocks(world, world.make_at_root(lambda: images), delivery, names=True))
    names = [name for block in found for name in block.names or ()]
    everyone = world.all_gather(names)
    assert sorted(name for each in everyone for name in each) == sorted(images.catalogue.names())
    counts = [len(each) for each in everyone]
    assert max(counts) - min(counts) <= 1
    for block in found:
        for pixels, name in zip(block.pixels, block.names or (), strict=True):
            assert np.array_equal(pixels, images.catalogue.reader.pixels[int(str(name)[-5:])])  # type: ignore[attr-defined]


def fingerprint_of(images: Block) -> str:
    return fingerprint(moments_by_fold(images.pixels, images.labels, images.folds, 4))


@pytest.mark.parametrize("n", [2, 900, 6000])
def test_moments_are_those_of_one_process_to_the_last_bit(world: World, n: int) -> None:
    images = images_of(n, height=20, width=15)
    expected = world.at_root(lambda: fingerprint_of(images.load()))
    sums = FoldSums(4)
    for block in own_blocks(world, world.make_at_root(lambda: images), "read"):
        sums.add(block.pixels, block.labels, block.folds)
    flat = flatten(sums.result(), [-1, 0], 300, 4)
    world.sum(flat)
    assert fingerprint(unflatten(flat, [-1, 0], 300, 4)) == expected


def test_held_out_images_go_round(world: World) -> None:
    images = images_of(3001).load()
    held_out = HeldOut()
    if world.rank < world.size - 1 or world.size == 1:  # the last rank has none
        for i in range(world.rank, 3001, max(1, world.size - 1)):
            one = slice(i, i + 1)
            held_out.add(Block(images.pixels[one], images.labels[one], images.folds[one], None, []))
    rounds = list(everyones_blocks(world, held_out.result(), (60, 50, 1)))
    assert len(rounds) > 1
    assert all(block.pixels.nbytes < (1 << 20) + 3000 for block in rounds)
    validates = np.flatnonzero(images.folds == 0)
    pairs = [pair for block in rounds for pair in zip(block.pixels, block.labels, strict=True)]
    assert len(pairs) == len(validates)
    seen = {bytes(pixels): label for pixels, label in pairs}
    assert all(seen[bytes(images.pixels[i])] == images.labels[i] for i in validates)
    assert all((block.folds == 0).all() for block in rounds)


class FailingReader(ArrayReader):
    def read(self, items: np.ndarray) -> ReadResult:
        if 37 in items:
            raise InputError("the disk is on fire")
        return super().read(items)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_source_that_fails_on_one_rank_fails_on_all(world: World, delivery: str) -> None:
    def failing() -> Problem:
        images = images_of(40)
        images.catalogue = Catalogue(
            FailingReader("random", images.catalogue.reader.pixels),  # type: ignore[attr-defined]
            images.catalogue.items,
            images.catalogue.labels,
            images.class_names,
        )
        return Problem(images, FoldRule(None, 0.3))

    dealt = DealtProblem(world, world.make_at_root(failing), RankSettings(images=delivery))
    with pytest.raises(AgreedError, match=r"rank \d+ on .*: the disk is on fire"):
        dealt.read()


@pytest.mark.parametrize("penalty", ["sum", "mean"])
def test_averaging_the_same_images_is_exact(world: World, penalty: str) -> None:
    """P ranks with the same images: their average is the model of P copies of each image, exactly."""
    images = images_of(200).load()
    small = images.pixels[:, :3, :3]
    own = moments_by_fold(small, images.labels, images.folds, 4)
    flat = flatten(own, [-1, 0], 9, 4)
    world.sum(flat)
    everyones = unflatten(flat, [-1, 0], 9, 4)
    training = training_moments(everyones)
    averaged = Shards(world, own, total(everyones), training, penalty).paths([0.1, 10.0])[0]

    exact = ridge_path(training[0], [0.1, 10.0], penalty)
    np.testing.assert_allclose(averaged.weights, exact.weights, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(averaged.intercepts, exact.intercepts, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "d", "name"),
    [
        (RankSettings(1), 64, BlasProduct.name),
        (RankSettings(2), 64, TiledProduct.name),
        (RankSettings(1), FEWEST_INT8_FEATURES, Int8Product.name),
        (RankSettings(2), FEWEST_INT8_FEATURES, Int8Product.name),
        (RankSettings(2, "blas"), FEWEST_INT8_FEATURES, BlasProduct.name),
        (RankSettings(2, Tile(256, 32)), FEWEST_INT8_FEATURES, TiledProduct.name),
    ],
)
def test_ranks_multiply_by_what_is_fastest_or_asked_for(settings: RankSettings, d: int, name: str) -> None:
    assert settings.product_for(d).name == name
