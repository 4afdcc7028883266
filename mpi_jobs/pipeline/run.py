"""A run of predict_cnn.py on all ranks: rank 0 finds out what is to be done, each rank takes its roles."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.console import Bar, Console
from common.data.catalogue import PixelReader
from common.errors import InputError
from common.predict.files import PredictionFile
from common.predict.predictions import Form
from mpi_jobs.engine.clock import peak_mib
from mpi_jobs.engine.world import World, counted_ranks
from mpi_jobs.pipeline.layout import Kind, Layout
from mpi_jobs.pipeline.mailbox import Post, Role, work
from mpi_jobs.pipeline.opening import Opened, find_profile, open_run, wait_for_first
from mpi_jobs.pipeline.preprocessor import Preprocessor
from mpi_jobs.pipeline.profile import Profile
from mpi_jobs.pipeline.sink import Sink
from mpi_jobs.pipeline.source import Flow, Source, State

if TYPE_CHECKING:
    from common.nets.classifier import Classifier

MOST_WITHOUT_CHOICE = 4
"""Ranks up to which there is one layout only."""


MAIN = (Kind.PREDICTOR, Kind.PREPROCESSOR, Kind.SINK, Kind.SOURCE)
"""By which of its roles a rank's images are counted."""


class Facts(NamedTuple):
    """What every rank has to know.

    Attributes:
        layout: the roles.
        form: what a row says.
        class_ids: what classes are called in rows.
        shape: (height, width, channels) of decoded images.
        file: the format of the predictions.
        ordered: whether rows are in the order of the images.
        way: of decoding and predicting.
        device: what predictors are to compute on.
        threads: of each worker; None for its share of the cores.
    """

    layout: Layout
    form: Form
    class_ids: tuple[str, ...]
    shape: tuple[int, int, int]
    file: str
    ordered: bool
    way: str
    device: str
    threads: int | None


class Live:
    """What a person sees on a terminal.

    Args:
        bar: to move.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._written = 0

    def show(self, state: State) -> None:
        """Move on, and say how full the queues are."""
        self._bar(state.written - self._written)
        self._written = state.written
        errors = f", {state.errors} errors" if state.errors else ""
        self._bar.tell(
            f"decoding {state.decoding}, decoded {state.decoded}, predicting {state.predicting} chunks, "
            f"{state.unwritten} rows to write{errors}"
        )


class PredictionRun:
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
        self._opened = world.make_at_root(lambda: open_run(argv))
        self._console = Console(
            quiet=self._opened.share(lambda opened: opened.arguments.quiet) or not world.is_root
        )
        self._cores = max(1, round(sum(world.all_gather(world.cores / world.neighbours))))
        self._profile: Profile | None = None
        self._roles: dict[Kind, Role] = {}
        with self._console.phase("look"):
            self._opened.run(self._look)
            self.facts: Facts = self._opened.share(self._choose)
        with self._console.phase("prepare"):
            self._post = Post(world)
            self._threads = self._share_of_cores()
            self._reader = self._receive_reader()
            self._classifier = self._make_classifier()
            devices = set(world.all_gather(self._classifier and self._classifier.device.type))
            self._device = "cuda" if "cuda" in devices else "cpu"
            self._folder = self._opened.share(lambda opened: opened.begin())
            self._file = self._open_file()
        self._seconds = 0.0

    # what rank 0 finds out

    def _look(self, opened: Opened) -> None:
        """Wait for the first image; look at some if the layout depends on it."""
        arguments = opened.arguments
        if not wait_for_first(opened.inputs):
            if not opened.inputs.n_passed:
                raise InputError(f"--data {arguments.data}: no images in it")
        elif arguments.ratio is None and (self._world.size > MOST_WITHOUT_CHOICE or arguments.profile is not None):
            self._profile = find_profile(opened, arguments.threads or 1)

    def _choose(self, opened: Opened) -> Facts:
        """Who does what, and what everyone has to know."""
        arguments, profile = opened.arguments, self._profile
        ranks = self._world.size
        ratio = arguments.ratio or (profile.recommend(ranks, self._cores) if profile else 1)
        return Facts(
            Layout.of(ranks, ratio), opened.form, opened.model.classes.written, opened.inputs.reader.shape,
            arguments.format, not arguments.unordered, opened.way, arguments.device, arguments.threads,
        )  # fmt: skip

    # what each rank prepares

    def _share_of_cores(self) -> int:
        """Threads of this rank, if it decodes or predicts."""
        machine = self._world.machine()
        workers = sum(machine.all_gather(self._works))
        return self.facts.threads or max(1, machine.cores // max(1, workers))

    @property
    def _works(self) -> bool:
        """Whether this rank decodes or predicts."""
        return bool({Kind.PREPROCESSOR, Kind.PREDICTOR} & set(self.facts.layout.kinds(self._world.rank)))

    def _receive_reader(self) -> PixelReader | None:
        """What turns items into pixels: on those that do so, because it may bring torch with it."""
        told = self._world.split(0 if self._works or self._world.is_root else None)
        return None if told is None else told.at_root(lambda: self._opened.value.inputs.reader)

    def _make_classifier(self) -> Classifier | None:
        """What a predictor predicts by: rank 0 sends them the model."""
        world, facts = self._world, self.facts
        predicts = Kind.PREDICTOR in facts.layout.kinds(world.rank)
        told = world.split(0 if predicts or world.is_root else None)
        model = None if told is None else told.at_root(lambda: self._opened.value.model)
        predictors = world.split(0 if predicts else None)

        def make() -> Classifier | None:
            if predictors is None or model is None:
                return None
            import torch

            from mpi_jobs.pipeline.predictor import best_classes
            from mpi_jobs.training.devices import find_device

            torch.set_num_threads(self._threads)
            classifier = model.classifier(find_device(predictors, facts.device, False), facts.way)
            # the first time is for making plans, and better over before images wait
            best_classes(classifier, np.zeros((1, *facts.shape), np.uint8), 1)
            return classifier

        return world.everywhere(make)

    def _open_file(self) -> PredictionFile | None:
        """What the sink writes to."""
        world, facts, folder = self._world, self.facts, self._folder

        def make() -> PredictionFile | None:
            if world.rank != facts.layout.sink:
                return None
            if not folder.is_dir():
                raise InputError(
                    f"{folder}: rank {world.rank} on {platform.node()}, which is to write there, does not see it; "
                    "name a folder that all machines see"
                )
            return PredictionFile.of(facts.file, folder, facts.form, facts.class_ids)

        return world.everywhere(make)

    # predicting

    def predict(self) -> None:
        """Let all roles work until everything is written."""
        if self._world.is_root:
            self._console.say(f"{counted_ranks(self._world.size)}: {self.facts.layout}")
            total, done = self._opened.value.inputs.total, self._opened.value.written
        else:
            total, done = 0, 0
        with self._console.phase("predict"), self._console.bar(total, "img", done=done) as bar:
            self._roles = self._make_roles(Live(bar))
            self._world.meet()
            started = time.perf_counter()
            work(self._post, self._roles)
            self._seconds = time.perf_counter() - started

    def _make_roles(self, live: Live) -> dict[Kind, Role]:
        """The roles of this rank."""
        return {kind: self._make_role(kind, live) for kind in self.facts.layout.kinds(self._world.rank)}

    def _make_role(self, kind: Kind, live: Live) -> Role:
        facts, post, layout, reader = self.facts, self._post, self.facts.layout, self._reader
        if kind == Kind.SOURCE:
            opened = self._opened.value
            flow = Flow.within(
                int(opened.arguments.memory * 2**20), math.prod(facts.shape), opened.batch,
                opened.arguments.max_delay / 1000,
            )  # fmt: skip
            return Source(post, layout, opened.inputs, flow, self._device == "cpu", live.show)
        if kind == Kind.SINK:
            if self._file is None:
                raise ValueError("a sink without a file")
            return Sink(post, layout.source, self._file, facts.form, len(facts.class_ids), facts.ordered)
        if reader is None:
            raise ValueError("a worker without a reader")
        if kind == Kind.PREPROCESSOR:
            return Preprocessor(post, layout.source, reader, self._threads)
        # imported here, because it brings torch, which the other roles need not wait for
        from mpi_jobs.pipeline.predictor import Predictor

        if self._classifier is None:
            raise ValueError("a predictor without a network")
        return Predictor(post, layout.source, layout.sink, self._classifier, reader, self._threads, facts.form)

    # finishing

    def finish(self) -> None:
        """Write the report, and say where it is.

        Raises:
            AgreedError: it cannot be written.
        """
        sink = self._roles.get(Kind.SINK)
        found = self._world.gather((self._record(), sink.summary if isinstance(sink, Sink) else None))

        def write(opened: Opened) -> None:
            # imported here, because only rank 0 draws
            from mpi_jobs.pipeline.results import Results, write_results

            summary = next(summary for _, summary in found if summary is not None)
            source = self._roles[Kind.SOURCE]
            flow_s = source.flow_s if isinstance(source, Source) else 0.0
            ranks = [record for record, _ in found]
            results = Results(summary, ranks, self.facts.layout, self._profile, flow_s, self._device, self._cores)
            write_results(opened, results, self._console)
            opened.release()

        self._opened.run(write)

    def _record(self) -> dict[str, Any]:
        """What metrics.json says of this rank."""
        roles = self._roles
        seconds: dict[str, float] = {}
        for role in roles.values():
            for name, value in role.seconds.items():
                seconds[name] = seconds.get(name, 0.0) + value
        waited = max(0.0, self._seconds - sum(seconds.values()))
        return {
            "host": platform.node(),
            "roles": list(roles),
            "images": next(roles[kind].images for kind in MAIN if kind in roles),
            "seconds": seconds | {"wait": waited},
            "waited": {"wait": waited},
            "communicated": {},
            "threads": self._threads if self._works else 0,
            "peak_mib": peak_mib(),
        }

    def interrupted(self, interrupt: KeyboardInterrupt) -> None:
        """Add to an interrupt what is left of the run."""
        interrupt.add_note(f"--resume {self._folder} completes it")
