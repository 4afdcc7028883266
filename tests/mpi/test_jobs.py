"""One answer: serial, and the ridge jobs on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.ridge.model import RidgeModel
from mpi_jobs import ridge_data_parallel, ridge_model_parallel
from mpi_jobs.engine.world import World
from spark_jobs import serial
from tests.support.herbarium import herbarium
from tests.support.jobs import AGREED, metrics_of, run_main

Main = Callable[[Sequence[str]], int]
JOBS: dict[str, Main] = {"data": ridge_data_parallel.main, "model": ridge_model_parallel.main}


def run(world: World, main: Main, out: Path, *flags: str) -> dict[str, Any]:
    """Run a job on all ranks: its metrics."""
    out = world.at_root(lambda: out)
    assert main([*flags, "--quiet", "--out", str(out)]) == 0
    world.meet()
    return world.at_root(lambda: metrics_of(out))


def assert_agreed(
    world: World, tmp_path: Path, jobs: Sequence[str], flags: list[str], more: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Check that jobs, given `more` flags, find what serial finds; return their metrics."""
    found = [run(world, JOBS[job], tmp_path / job, *flags, *more) for job in jobs]
    if world.is_root:
        expected = run_main(serial.main, tmp_path / "serial", *flags)
        b = RidgeModel.load(tmp_path / "serial")
        for job, metrics in zip(jobs, found, strict=True):
            for key in AGREED:
                assert metrics[key] == expected[key], key
            a = RidgeModel.load(tmp_path / job)
            assert np.abs(a.weights - b.weights).max() <= 1e-6 * np.abs(b.weights).max()
            assert np.abs(a.intercept - b.intercept).max() <= 1e-6 * np.abs(b.intercept).max()
    world.meet()
    return found


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        ([], []),
        (["--folds", "4", "--lambdas", "0:3:3"], ["--images", "scatter"]),
        (["--penalty", "mean", "--lambdas", "-6:2:13"], []),
        (["--limit", "500", "--seed", "9", "--size", "6x7", "--binarize", "0.4", "--lambdas", "0,1"], []),
        (["--limit", "2", "--lambdas", "0"], []),
    ],
)
def test_digits(world: World, tmp_path: Path, flags: list[str], more: list[str]) -> None:
    for found in assert_agreed(world, tmp_path, list(JOBS), flags, more):
        assert found["workers"] == len(found["ranks"]) == world.size
        images = found["images"]
        fitted = images["train"] + (images["validation"] if found["folds"] is None else 0)
        assert sum(rank["images"] for rank in found["ranks"]) == fitted


@pytest.mark.parametrize("way", ["read", "scatter"])
def test_a_folder_with_an_image_that_cannot_be_used(
    world: World, tmp_path: Path, folder_of_images: Path, way: str
) -> None:
    images = world.at_root(lambda: folder_of_images)
    if world.is_root:
        (images / "cedar" / "11.png").write_bytes(b"damaged")
        rows = [
            f"{path.parent.name}/{path.stem},{path.parent.name},{path.stem[1]}" for path in images.rglob("*.png")
        ]
        (images / "labels.csv").write_text("\n".join(["image,label,who", *rows]))
        (tmp_path / "again").symlink_to(images)
    world.meet()
    flags = ["--data", f"folder:{images}", "--max-corrupt", "0.1"]
    if way == "scatter":  # the same images, told by other flags: those for validation are all of them
        flags += ["--labels", str(images / "labels.csv"), "--group-column", "who"]
        flags += ["--validation-data", f"folder:{world.at_root(lambda: tmp_path / 'again')}"]
    for found in assert_agreed(world, tmp_path, list(JOBS), flags, ["--images", way]):
        assert found["images"]["skipped"] == (2 if way == "scatter" else 1)
    if world.is_root:
        for job in JOBS:
            assert "cedar/11.png" in (tmp_path / job / "skipped.csv").read_text()


def test_herbarium(world: World, tmp_path: Path) -> None:
    folder = world.at_root(lambda: tmp_path / "h")
    if world.is_root:
        herbarium(folder)
    world.meet()
    assert_agreed(world, tmp_path, ["data"], ["--data", f"herbarium:{folder}"])


@pytest.mark.parametrize("tile", ["100x7", "1x1", "blas"])
def test_tiles_change_nothing(world: World, tmp_path: Path, tile: str) -> None:
    assert_agreed(world, tmp_path, ["data"], ["--limit", "60"], ["--tile", tile, "--threads", "3"])
