"""A data source is one class and one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data import sources
from common.data.catalogue import Catalogue, Classes
from common.data.decode import DECODING_STEPS, PixelFormat
from common.data.sources.arrays import ArrayReader
from common.data.sources.source import LocalFiles, NamedSource, PathSource, Requirements, Splits
from common.errors import InputError
from common.predict.inputs import open_inputs
from emr.inputs import JobInputs
from spark_jobs import serial
from tests.support.jobs import run_main

LABELS = np.arange(60) % 2


def stripes(source: str, pixel_format: PixelFormat) -> Splits:
    """Images of horizontal and of vertical stripes, a third of which are for the test."""
    noise = np.random.default_rng(3).integers(0, 50, (60, 4, 4, 1), np.uint8)
    noise[LABELS == 0, ::2] += 200
    noise[LABELS == 1, :, ::2] += 200
    reader = ArrayReader.of(source, noise, pixel_format)
    images = Catalogue(reader, np.arange(60), LABELS, ("horizontal", "vertical"))
    return Splits(images.take(slice(40)), images.take(slice(40, None)))


class Stripes(NamedSource):
    """A bundled source."""

    kind = "stripes"

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        return stripes(self.kind, pixel_format)


class StripesOnDisk(Stripes):
    """Stripes that need a file below the data root."""

    kind = "stripes-on-disk"

    def local_files(self, location: Path) -> LocalFiles:
        return LocalFiles("data", location, [location / "stripes"])


class StripesAt(PathSource):
    """Stripes at a path."""

    kind = "stripes-at"

    def open(self, location: Path, pixel_format: PixelFormat) -> Splits:
        assert location.is_absolute()
        return stripes(self.kind, pixel_format)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, Stripes(), StripesOnDisk(), StripesAt()))
    monkeypatch.chdir(tmp_path)
    for name in ("data/stripes/1", "here/2"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()


@pytest.mark.parametrize("spec", ["stripes", "stripes-at:here"])
def test_a_job_trains_on_it(tmp_path: Path, spec: str) -> None:
    metrics = run_main(serial.main, tmp_path / "run", "--data", spec)
    assert metrics["test_accuracy"] == 1
    assert metrics["images"]["test"] == 20


def test_a_network_predicts_it() -> None:
    requirements = Requirements(PixelFormat((4, 4)), (4, 4, 1), Classes(("vertical", "other")), DECODING_STEPS)
    inputs = open_inputs("stripes", Path("nowhere"), None, requirements, Path.cwd())
    images = inputs.take(100)
    assert images.ids == [f"stripes/{i:05d}" for i in range(40, 60)]
    assert images.labels.tolist() == np.where(LABELS[40:] == 1, 0, -1).tolist()
    assert inputs.reader.read(images.items).pixels.shape == (20, 4, 4, 1)
    assert open_inputs("stripes", Path("nowhere"), "train", requirements, Path.cwd()).total == 40
    assert open_inputs("stripes-at:here", Path("nowhere"), None, requirements, Path.cwd()).total == 20
    with pytest.raises(InputError, match=r"--split train: .* has no splits"):
        open_inputs("stripes-at:here", Path("nowhere"), "train", requirements, Path.cwd())


def test_its_files_travel_to_a_cluster() -> None:
    def on_cluster(spec: str) -> tuple[list[str], list[str]]:
        inputs = JobInputs.of("gram", ["--data", spec], Path("data"))
        return inputs.words, [name for shipped in inputs.shipped for name in shipped.files]

    assert on_cluster("stripes") == (["--data=stripes"], [])
    assert on_cluster("stripes-on-disk") == (["--data-root=shipped-data", "--data=stripes-on-disk"], ["stripes/1"])
    assert on_cluster("stripes-at:here") == (["--data=stripes-at:shipped-here"], ["2"])


def test_messages_and_help_texts_list_it() -> None:
    with pytest.raises(InputError, match="stripes, stripes-on-disk, stripes-at:PATH"):
        sources.open_labelled("cifar", Path(), PixelFormat())
    assert "stripes-at:PATH" in sources.specs()
