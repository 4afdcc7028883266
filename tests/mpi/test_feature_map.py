"""A feature map that is not the pixels, on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from common.ridge.fit import MAX_KEPT_BYTES, Fit, Problem
from common.ridge.moments import fingerprint
from common.run.flags import ridge_parser
from common.run.ridge import RidgeRun
from mpi_jobs import ridge_data_parallel, ridge_model_parallel
from mpi_jobs.engine.world import AtRoot, World
from mpi_jobs.ridge.dealt_problem import RankSettings
from spark_jobs import serial
from tests.support.block_means import BlockMeans

FITS: dict[str, Callable[[World, AtRoot[Problem], RankSettings], Fit]] = {
    "data": lambda world, problem, settings: ridge_data_parallel.fit(world, problem, settings=settings),
    "average": lambda world, problem, settings: ridge_data_parallel.fit(world, problem, "average", settings),
    "model": ridge_model_parallel.fit,
}


@pytest.mark.parametrize("images", ["read", "scatter"])
@pytest.mark.parametrize("job", FITS)
def test_ranks_fit_features_and_not_pixels(world: World, job: str, images: str) -> None:
    def make() -> Problem:
        flags = ["--quiet", "--lambdas", "0:4:5"]
        problem = RidgeRun.open("test", ridge_parser("").parse_arguments(flags)).problem
        # with "scatter", features are computed again to validate
        return replace(problem, features=BlockMeans(), most_kept=MAX_KEPT_BYTES if images == "read" else 0)

    problem = world.make_at_root(make)
    fit = FITS[job](world, problem, RankSettings(images=images))
    exact = fit.exact or fit
    assert fit.model.weights.shape == (16, 10)
    assert fit.model.features == BlockMeans()
    assert (fit.exact is not None) == (job == "average")
    if world.is_root:
        expected = serial.fit(problem.value)
        assert expected.moments is not None
        assert exact.moments is not None
        assert fingerprint(exact.moments) == fingerprint(expected.moments)
        assert exact.correct.tolist() == expected.correct.tolist()
        np.testing.assert_allclose(exact.model.weights, expected.model.weights, rtol=1e-6, atol=1e-9)
    world.meet()
