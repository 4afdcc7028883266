"""A run of profile_cnn.py: all ranks measure the same step at the same time, as they would work."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.arrays import Items, Labels
from common.atomic import write_json
from common.console import Console
from common.data.catalogue import PixelReader
from common.data.measuring import DECODING, DecodedSample
from common.data.sources.files import FileReader
from common.data.splits import shard
from common.errors import InputError
from common.predict.predictions import RowFormat
from common.provenance import command, versions
from common.report import plots
from common.report.pages import render, write_figures, write_page
from common.run.folder import RunFolder
from mpi_jobs.engine.world import World, counted_ranks, library
from mpi_jobs.pipeline.flags import profile_parser
from mpi_jobs.pipeline.layout import Layout
from mpi_jobs.pipeline.models import FAST, PLAIN, Model, load_model
from mpi_jobs.pipeline.opened_prediction import default_batch, open_images, wait_for_first
from mpi_jobs.pipeline.profile import FORMAT, Profile

MOST_NAMED = 20
"""The most images that are named of those that get different classes in the two modes."""


class Subject(NamedTuple):
    """The subject of the measurement, on every rank.

    Attributes:
        arguments: the flags.
        model: the model.
        reader: reads the images in plain mode.
        items: (n,), the items of the images.
        batch: the number of images per batch of the model.
    """

    arguments: argparse.Namespace
    model: Model
    reader: PixelReader
    items: Items
    batch: int


class Measured(NamedTuple):
    """The measurement of one mode on one rank.

    Attributes:
        profile: the costs.
        names: the names of the n images that could be decoded; none if the model has one mode.
        predicted: int64 (n,), their predicted classes.
    """

    profile: Profile
    names: list[str]
    predicted: Labels


class ProfileRun:
    """A run of profile_cnn.py on all ranks, opened as a PredictionRun is.

    Args:
        world: the ranks.
        argv: the flags; None for the flags of this process.
    """

    def __init__(self, world: World, argv: Sequence[str] | None) -> None:
        self._world = world
        opened = world.make_at_root(lambda: self._open(argv))
        self._subject = opened.share(lambda opened: opened[0])
        self._folder = world.make_at_root(lambda: opened.value[1])
        arguments = self._subject.arguments
        self._console = Console(arguments.quiet or not world.is_root)
        self._device = self._subject.model.find_device(arguments.device, world)

    def _open(self, argv: Sequence[str] | None) -> tuple[Subject, RunFolder]:
        arguments = profile_parser().parse_arguments(argv)
        model = load_model(arguments.model, PLAIN, arguments.device)
        inputs = open_images(arguments, model, PLAIN, Path.cwd())
        if not wait_for_first(inputs):
            raise InputError(f"--data {arguments.data}: no images in it")
        folder = RunFolder(arguments.out, "profile_cnn")
        items = inputs.peek(arguments.images * self._world.size).items
        batch = arguments.batch or default_batch(inputs)
        return Subject(arguments, model, inputs.reader, items, batch), folder

    def measure(self) -> dict[str, list[Measured]]:
        """Measure the model's modes on every rank; return all measurements by mode on rank 0."""
        measured = {}
        for mode in self._subject.model.modes:
            with self._console.phase(mode):
                self._world.meet()
                measured[mode] = self._world.gather(self._measure(mode))
        return measured

    def _measure(self, mode: str) -> Measured:
        """Measure one mode on this rank's own images."""
        arguments, model, reader, items, batch = self._subject
        if isinstance(reader, FileReader):
            reader = replace(reader, steps=model.decoding_steps(mode))
        own = items[shard(len(items), self._world.rank, self._world.size)]
        own = own if len(own) else items[:1]
        reader.read(own[:1])  # not measured: the first image includes late imports
        decoded = DecodedSample.of(reader, own, arguments.seconds)
        self._world.meet()
        scorer = model.scorer(self._device, mode, arguments.threads)
        profile = Profile.measure(model.name, scorer, mode, decoded, batch, arguments.seconds)
        if len(model.modes) == 1:  # nothing to compare with
            return Measured(profile, [], np.empty(0, np.int64))
        predicted = [
            scorer.best_classes(decoded.pixels[start : start + batch], RowFormat()).top[:, 0]
            for start in range(0, len(decoded.pixels), batch)
        ]
        names = [reader.name(item) for item in decoded.items]
        return Measured(profile, names, np.concatenate(predicted) if predicted else np.empty(0, np.int64))

    def finish(self, measured: dict[str, list[Measured]]) -> None:
        """Print the table, write profile.json and the report, and say where it is.

        Args:
            measured: the result of `measure`.

        Raises:
            AgreedError: the files cannot be written.
        """
        self._folder.run(lambda folder: self._write(folder, measured))

    def _write(self, folder: RunFolder, measured: dict[str, list[Measured]]) -> None:
        profiles = {mode: _mean([rank.profile for rank in ranks]) for mode, ranks in measured.items()}
        record = self._record(profiles, measured)
        classes, plain = self._subject.model.classes.names, profiles[PLAIN]
        steps = {"decode": DECODING, "predict": plain.predicting}
        with folder.written() as staging:
            figures = write_figures(staging, {"stages.svg": plots.prediction_steps(_milliseconds(profiles))})
            page = render(
                "profile.html.j2", record=record, figures=figures, shape=plain.shape, steps=steps, names=classes
            )
            write_page(staging, page)
            write_json(staging / "profile.json", record)
        self._print(profiles, record)
        print(f"report: {folder.file('report.html')}")

    def _record(self, profiles: dict[str, Profile], measured: Mapping[str, list[Measured]]) -> dict[str, Any]:
        """Return the content of profile.json."""
        plain, fast = (_classes_by_name(measured.get(mode, [])) for mode in (PLAIN, FAST))
        compared = sorted(set(plain) & set(fast))
        differ = [name for name in compared if plain[name] != fast[name]]
        arguments = self._subject.arguments
        return {
            "format": FORMAT,
            "job": "profile_cnn",
            "engine": f"{library()}, {counted_ranks(self._world.size)} measuring",
            "command": f"mpiexec -n {self._world.size} {command()}",
            "model": str(arguments.model),
            "data": arguments.data,
            "ways": {mode: profile.described() for mode, profile in profiles.items()},
            "compared": len(compared),
            "differ": differ[:MOST_NAMED],
            "n_differ": len(differ),
            "layouts": [_recommended(profiles, ranks, arguments.cores) for ranks in arguments.ranks],
            "versions": versions(),
        }

    def _print(self, profiles: dict[str, Profile], record: dict[str, Any]) -> None:
        """Print the figures as a table."""
        say, columns = self._console.say, _milliseconds(profiles)
        say(f"{'ms per image':<14}" + "".join(f"{mode:>10}" for mode in columns))
        for step in profiles[PLAIN].seconds:
            say(f"{step:<14}" + "".join(f"{column[step]:10.3f}" for column in columns.values()))
        for name in ("preprocess", "predict"):
            total = "".join(f"{1000 * getattr(profile, name):10.3f}" for profile in profiles.values())
            say(f"{'all ' + name:<14}{total}")
        n, differ = record["compared"], record["n_differ"]
        if FAST in profiles:
            say(f"both modes predict the same class for {n - differ:,} of {n:,} images")
        for layout in record["layouts"]:
            recommended = "; ".join(
                f"{mode} --ratio {best['ratio']}: {best['rate']:,.0f} images/s"
                for mode, best in layout["ways"].items()
            )
            say(f"{counted_ranks(layout['ranks'])} on {layout['cores']} cores: {recommended}")


def _milliseconds(profiles: dict[str, Profile]) -> dict[str, dict[str, float]]:
    """Return milliseconds per image by mode and step."""
    return {
        mode: {step: 1000 * seconds for step, seconds in profile.seconds.items()}
        for mode, profile in profiles.items()
    }


def _mean(profiles: Sequence[Profile]) -> Profile:
    """Return the mean of the ranks' profiles."""
    seconds = {
        step: float(np.mean([profile.seconds[step] for profile in profiles])) for step in profiles[0].seconds
    }
    return replace(profiles[0], seconds=seconds, images=sum(profile.images for profile in profiles))


def _classes_by_name(measured: Sequence[Measured]) -> dict[str, int]:
    """Return the predicted class of each image of all ranks."""
    return {
        name: int(predicted)
        for rank in measured
        for name, predicted in zip(rank.names, rank.predicted, strict=True)
    }


def _recommended(profiles: dict[str, Profile], ranks: int, cores: int | None) -> dict[str, Any]:
    """Return the best layout of `ranks` ranks for each mode."""
    cores = cores or ranks
    layouts = {}
    for mode, profile in profiles.items():
        ratio = profile.recommend(ranks, cores)
        layout = Layout.of(ranks, ratio)
        layouts[mode] = {"ratio": ratio, "layout": str(layout), "rate": profile.rate(layout, cores)}
    return {"ranks": ranks, "cores": cores, "ways": layouts}
