"""A run of profile_cnn.py: all ranks measure the same stage at the same time, as they would work."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.arrays import Items, Labels
from common.atomic import write_json
from common.console import Console
from common.data.catalogue import PixelReader
from common.data.sources.files import FileReader
from common.data.splits import shard
from common.errors import InputError
from common.predict.inputs import open_inputs
from common.provenance import command, versions
from common.report import plots
from common.report.pages import render
from common.report.ridge import write_figures, write_page
from common.run.folder import RunFolder
from mpi_jobs.engine.world import World, counted_ranks, library
from mpi_jobs.pipeline.flags import profile_parser
from mpi_jobs.pipeline.layout import Layout
from mpi_jobs.pipeline.model import WAYS, Model, stages_of
from mpi_jobs.pipeline.opening import default_batch, measured, wait_for_first
from mpi_jobs.pipeline.predictor import best_classes
from mpi_jobs.pipeline.profile import DECODING, FORMAT, PREDICTING, Profile, Sample
from mpi_jobs.training.devices import find_device

MOST_NAMED = 20
"""Images of which the two ways say different things that are named."""


class Subject(NamedTuple):
    """What every rank has to know.

    Attributes:
        arguments: the flags.
        model: what predicts.
        reader: of images, decoded the plain way.
        items: (n,), those to measure.
        batch: images that the network takes at once.
    """

    arguments: argparse.Namespace
    model: Model
    reader: PixelReader
    items: Items
    batch: int


class Measured(NamedTuple):
    """What a rank has found out of one way.

    Attributes:
        profile: the costs.
        names: of the images that could be decoded.
        predicted: int64 (n,), their classes.
    """

    profile: Profile
    names: list[str]
    predicted: Labels


class ProfileRun:
    """One run on all ranks.

    Args:
        world: the ranks, all of which make this.
        argv: the flags; None for this process's own.

    Raises:
        AgreedError: flags, model or images are wrong; on every rank.
        SystemExit: --help, or flags that do not parse; on every rank.
    """

    def __init__(self, world: World, argv: Sequence[str] | None) -> None:
        self._world = world
        opened = world.make_at_root(lambda: self._open(argv))
        self._subject = opened.share(lambda opened: opened[0])
        self._folder = world.make_at_root(lambda: opened.value[1])
        arguments = self._subject.arguments
        self._console = Console(arguments.quiet or not world.is_root)
        self._device = find_device(world, arguments.device, False)
        torch.set_num_threads(arguments.threads)

    def _open(self, argv: Sequence[str] | None) -> tuple[Subject, RunFolder]:
        arguments = profile_parser().parse_arguments(argv)
        model = Model.load(arguments.model)
        inputs = open_inputs(
            arguments.data, arguments.data_root, arguments.split, model.wanted("plain"), Path.cwd()
        )
        if not wait_for_first(inputs):
            raise InputError(f"--data {arguments.data}: no images in it")
        folder = RunFolder(arguments.out, "profile_cnn")
        items = inputs.peek(arguments.images * self._world.size).items
        return Subject(arguments, model, inputs.reader, items, arguments.batch or default_batch(inputs)), folder

    def measure(self) -> dict[str, list[Measured]]:
        """Both ways, on every rank; what all found, on rank 0."""
        found = {}
        for way in WAYS:
            with self._console.phase(way):
                self._world.meet()
                found[way] = self._world.gather(self._measure(way))
        return found

    def _measure(self, way: str) -> Measured:
        """One way on this rank, which has images of its own."""
        arguments, model, reader, items, batch = self._subject
        if isinstance(reader, FileReader):
            reader = replace(reader, stages=stages_of(way))
        own = items[shard(len(items), self._world.rank, self._world.size)]
        own = own if len(own) else items[:1]
        reader.read(own[:1])  # the first time brings what is imported late
        decoded = Sample.of(reader, own, arguments.seconds)
        self._world.meet()
        classifier = model.classifier(self._device, way)
        profile = measured(way, model, classifier, decoded, batch, arguments.threads, arguments.seconds)
        predicted = [
            best_classes(classifier, decoded.pixels[start : start + batch], 1).top[:, 0]
            for start in range(0, len(decoded.pixels), batch)
        ]
        names = [reader.name(item) for item in decoded.items]
        return Measured(profile, names, np.concatenate(predicted) if predicted else np.empty(0, np.int64))

    def finish(self, found: dict[str, list[Measured]]) -> None:
        """Print the table, write profile.json and the report, and say where it is.

        Raises:
            AgreedError: they cannot be written.
        """
        self._folder.run(lambda folder: self._write(folder, found))

    def _write(self, folder: RunFolder, found: dict[str, list[Measured]]) -> None:
        profiles = {way: _averaged([each.profile for each in ranks]) for way, ranks in found.items()}
        classes = {
            way: {n: int(c) for each in ranks for n, c in zip(each.names, each.predicted, strict=True)}
            for way, ranks in found.items()
        }
        compared = sorted(set(classes["plain"]) & set(classes["fast"]))
        differ = [name for name in compared if classes["plain"][name] != classes["fast"][name]]
        arguments, model = self._subject.arguments, self._subject.model
        layouts = [_recommended(profiles, ranks, arguments.cores) for ranks in arguments.ranks]
        record: dict[str, Any] = {
            "format": FORMAT,
            "job": "profile_cnn",
            "engine": f"{library()}, {counted_ranks(self._world.size)} measuring",
            "command": f"mpiexec -n {self._world.size} {command()}",
            "model": str(arguments.model),
            "data": arguments.data,
            "ways": {way: profile.described() for way, profile in profiles.items()},
            "compared": len(compared),
            "differ": differ[:MOST_NAMED],
            "n_differ": len(differ),
            "layouts": layouts,
            "versions": versions(),
        }
        with folder.written() as staging:
            figures = write_figures(staging, {"stages.svg": plots.stages(_milliseconds(profiles))})
            write_page(
                staging,
                render(
                    "profile.html.j2", record=record, figures=figures, shape=profiles["plain"].shape,
                    stages={"decode": DECODING, "predict": PREDICTING}, names=model.classes.names,
                ),
            )  # fmt: skip
            write_json(staging / "profile.json", record)
        self._tell(profiles, record)
        print(f"report: {folder.file('report.html')}")

    def _tell(self, profiles: dict[str, Profile], record: dict[str, Any]) -> None:
        """The figures, as a person reads them."""
        say, rows = self._console.say, _milliseconds(profiles)
        say(f"{'ms an image':<12}" + "".join(f"{way:>10}" for way in rows))
        for stage in (*DECODING, *PREDICTING):
            say(f"{stage:<12}" + "".join(f"{row[stage]:10.3f}" for row in rows.values()))
        for name in ("preprocess", "predict"):
            say(f"{'all ' + name:<12}" + "".join(f"{1000 * getattr(p, name):10.3f}" for p in profiles.values()))
        n, differ = record["compared"], record["n_differ"]
        say(f"the fast way says the same of {n - differ:,} of {n:,} images")
        for layout in record["layouts"]:
            told = "; ".join(
                f"{way} --ratio {each['ratio']}: {each['rate']:,.0f} images/s"
                for way, each in layout["ways"].items()
            )
            say(f"{counted_ranks(layout['ranks'])} on {layout['cores']} cores: {told}")


def _milliseconds(profiles: dict[str, Profile]) -> dict[str, dict[str, float]]:
    return {
        way: {stage: 1000 * seconds for stage, seconds in profile.seconds.items()}
        for way, profile in profiles.items()
    }


def _averaged(profiles: Sequence[Profile]) -> Profile:
    """The mean of what ranks found."""
    seconds = {
        stage: float(np.mean([profile.seconds[stage] for profile in profiles])) for stage in profiles[0].seconds
    }
    return replace(profiles[0], seconds=seconds, images=sum(profile.images for profile in profiles))


def _recommended(profiles: dict[str, Profile], ranks: int, cores: int | None) -> dict[str, Any]:
    """The best layout of so many ranks, each way."""
    cores = cores or ranks
    ways = {}
    for way, profile in profiles.items():
        ratio = profile.recommend(ranks, cores)
        layout = Layout.of(ranks, ratio)
        ways[way] = {"ratio": ratio, "layout": str(layout), "rate": profile.rate(layout, cores)}
    return {"ranks": ranks, "cores": cores, "ways": ways}
