"""A run of predict_cnn.py on all ranks: rank 0 plans the work, and each rank takes its roles."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import numpy as np

from common.console import Bar, Console
from common.data.catalogue import PixelReader
from common.errors import InputError, UnusableImagesError
from common.predict.files import PredictionFile
from common.predict.predictions import RowFormat
from mpi_jobs.engine.clock import peak_mib
from mpi_jobs.engine.world import World, counted_ranks
from mpi_jobs.pipeline.layout import Layout, RoleName
from mpi_jobs.pipeline.mailbox import Mailbox, Role, work
from mpi_jobs.pipeline.models import Scorer
from mpi_jobs.pipeline.opened_prediction import OpenedPrediction, find_profile, open_run, wait_for_first
from mpi_jobs.pipeline.predictor import Predictor
from mpi_jobs.pipeline.preprocessor import Preprocessor
from mpi_jobs.pipeline.profile import Profile
from mpi_jobs.pipeline.sink import Sink
from mpi_jobs.pipeline.source import FlowLimits, PipelineState, SourceRole

T = TypeVar("T")

MOST_WITHOUT_CHOICE = 4
"""The number of ranks up to which there is only one layout."""

MAIN = (RoleName.PREDICTOR, RoleName.PREPROCESSOR, RoleName.SINK, RoleName.SOURCE)
"""A rank's images are counted by the first of these roles that it has."""


class PredictionPlan(NamedTuple):
    """The part of a run that every rank has to know.

    Attributes:
        layout: the roles of all ranks.
        row_format: the columns of a prediction row.
        class_ids: the names of the classes in rows.
        shape: (height, width, channels) of decoded images.
        file: the format of the file of predictions, one of FORMATS.
        ordered: True if rows are in the order of the images.
        mode: the mode of decoding and predicting, "plain" or "fast".
        device: the value of --device.
        threads: the number of threads of each worker; None for its share of the cores.
    """

    layout: Layout
    row_format: RowFormat
    class_ids: tuple[str, ...]
    shape: tuple[int, int, int]
    file: str
    ordered: bool
    mode: str
    device: str
    threads: int | None


class PipelineProgress:
    """Shows on a terminal how far the pipeline has got.

    Args:
        bar: the progress bar.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._written = 0

    def show(self, state: PipelineState) -> None:
        """Move the bar, and show beside it how full the queues are."""
        self._bar(state.written - self._written)
        self._written = state.written
        errors = f", {state.errors} errors" if state.errors else ""
        self._bar.tell(
            f"decoding {state.decoding}, decoded {state.decoded}, predicting {state.predicting} chunks, "
            f"{state.unwritten} rows to write{errors}"
        )


class PredictionRun:
    """A run of predict_cnn.py. All ranks create one.

    Args:
        world: the ranks.
        argv: the flags; None for the flags of this process.

    Raises:
        AgreedError: flags, model or images are wrong; on every rank.
        SystemExit: --help was given, or the flags do not parse; on every rank.
    """

    def __init__(self, world: World, argv: Sequence[str] | None) -> None:
        self._world = world
        self._opened = world.make_at_root(lambda: open_run(argv))
        self._console = Console(
            quiet=self._opened.share(lambda opened: opened.arguments.quiet) or not world.is_root
        )
        self._cores = max(1, round(sum(world.all_gather(world.cores / world.neighbours))))
        self._profile: Profile | None = None
        self._roles: dict[RoleName, Role] = {}
        with self._console.phase("look"):
            self._opened.run(self._look)
            self._plan: PredictionPlan = self._opened.share(self._make_plan)
        with self._console.phase("prepare"):
            self._mailbox = Mailbox(world)
            self._threads = self._share_of_cores()
            self._reader = self._receive_reader()
            self._scorer = self._make_scorer()
            devices = set(world.all_gather(self._scorer and self._scorer.device))
            self._device = "cuda" if "cuda" in devices else "cpu"
            self._folder = self._opened.share(lambda opened: opened.begin())
            self._file = self._open_file()
        self._seconds = 0.0

    # on rank 0: planning

    def _look(self, opened: OpenedPrediction) -> None:
        """Wait for the first image, and find the costs per image if the layout depends on them."""
        arguments = opened.arguments
        if not wait_for_first(opened.inputs):
            if not opened.inputs.n_left_out:
                raise InputError(f"--data {arguments.data}: no images in it")
        elif arguments.ratio is None and (self._world.size > MOST_WITHOUT_CHOICE or arguments.profile is not None):
            self._profile = find_profile(opened, arguments.threads or 1)

    def _make_plan(self, opened: OpenedPrediction) -> PredictionPlan:
        arguments, profile = opened.arguments, self._profile
        ranks = self._world.size
        ratio = arguments.ratio or (profile.recommend(ranks, self._cores) if profile else 1)
        return PredictionPlan(
            layout=Layout.of(ranks, ratio),
            row_format=opened.row_format,
            class_ids=opened.model.classes.written,
            shape=opened.inputs.reader.shape,
            file=arguments.format,
            ordered=not arguments.unordered,
            mode=opened.mode,
            device=arguments.device,
            threads=arguments.threads,
        )

    # on each rank: preparing

    def _share_of_cores(self) -> int:
        """Return the number of threads of this rank, if it decodes or predicts."""
        machine = self._world.machine()
        workers = sum(machine.all_gather(self._works))
        return self._plan.threads or max(1, machine.cores // max(1, workers))

    @property
    def _works(self) -> bool:
        """True if this rank decodes or predicts."""
        return bool({RoleName.PREPROCESSOR, RoleName.PREDICTOR} & set(self._plan.layout.roles(self._world.rank)))

    @property
    def _predicts(self) -> bool:
        """True if this rank predicts."""
        return RoleName.PREDICTOR in self._plan.layout.roles(self._world.rank)

    def _receive_reader(self) -> PixelReader | None:
        """Return the reader of images on ranks that decode; others need not import torch, which it may bring."""
        receivers = self._world.split(0 if self._works or self._world.is_root else None)
        return None if receivers is None else receivers.at_root(lambda: self._opened.value.inputs.reader)

    def _make_scorer(self) -> Scorer | None:
        """Send the model from rank 0 to the predictors, and prepare it for use on this rank if it is one."""
        receivers = self._world.split(0 if self._predicts or self._world.is_root else None)
        model = None if receivers is None else receivers.at_root(lambda: self._opened.value.model)
        predictors = self._world.split(0 if self._predicts else None)

        def make() -> Scorer | None:
            if predictors is None or model is None:
                return None
            plan = self._plan
            scorer = model.scorer(model.find_device(plan.device, predictors), plan.mode, self._threads)
            # the first batch includes planning, which had better be over before images wait
            with suppress(UnusableImagesError):  # black images may be of no use to it, and others may be
                scorer.best_classes(np.zeros((1, *plan.shape), np.uint8), plan.row_format)
            return scorer

        return self._world.everywhere(make)

    def _open_file(self) -> PredictionFile | None:
        """Return the file of predictions on the rank of the sink."""
        world, plan, folder = self._world, self._plan, self._folder

        def make() -> PredictionFile | None:
            if world.rank != plan.layout.sink:
                return None
            if not folder.is_dir():
                raise InputError(
                    f"{folder}: rank {world.rank} on {platform.node()}, which is to write there, does not see it; "
                    "name a folder that all machines see"
                )
            return PredictionFile.of(plan.file, folder, plan.row_format, plan.class_ids)

        return world.everywhere(make)

    # predicting

    def predict(self) -> None:
        """Let all roles work until everything is written."""
        total: int | None = 0
        done = 0
        if self._world.is_root:
            self._console.say(f"{counted_ranks(self._world.size)}: {self._plan.layout}")
            total, done = self._opened.value.inputs.total, self._opened.value.written
        with self._console.phase("predict"), self._console.bar(total, "img", done=done) as bar:
            progress = PipelineProgress(bar)
            self._roles = {
                name: self._make_role(name, progress) for name in self._plan.layout.roles(self._world.rank)
            }
            self._world.meet()
            started = time.perf_counter()
            work(self._mailbox, self._roles)
            self._seconds = time.perf_counter() - started

    def _make_role(self, name: RoleName, progress: PipelineProgress) -> Role:
        make: dict[RoleName, Callable[[], Role]] = {
            RoleName.SOURCE: lambda: self._make_source(progress),
            RoleName.SINK: self._make_sink,
            RoleName.PREPROCESSOR: self._make_preprocessor,
            RoleName.PREDICTOR: self._make_predictor,
        }
        return make[name]()

    def _make_source(self, progress: PipelineProgress) -> Role:
        opened = self._opened.value
        limits = FlowLimits.within(
            memory_bytes=int(opened.arguments.memory * 2**20),
            image_bytes=math.prod(self._plan.shape),
            batch=opened.batch,
            max_delay_s=opened.arguments.max_delay / 1000,
        )
        helping = self._device == "cpu"
        return SourceRole(self._mailbox, self._plan.layout, opened.inputs, limits, helping, progress.show)

    def _make_sink(self) -> Role:
        plan, file = self._plan, _needed(self._file, "file")
        return Sink(self._mailbox, plan.layout.source, file, plan.row_format, len(plan.class_ids), plan.ordered)

    def _make_preprocessor(self) -> Role:
        reader = _needed(self._reader, "reader")
        return Preprocessor(self._mailbox, self._plan.layout.source, reader, self._threads)

    def _make_predictor(self) -> Role:
        layout, row_format = self._plan.layout, self._plan.row_format
        scorer, reader = _needed(self._scorer, "model"), _needed(self._reader, "reader")
        return Predictor(self._mailbox, layout.source, layout.sink, scorer, reader, self._threads, row_format)

    # finishing

    def finish(self) -> None:
        """Write the report, and say where it is.

        Raises:
            AgreedError: the report cannot be written.
        """
        sink = self._roles.get(RoleName.SINK)
        gathered = self._world.gather((self._record(), sink.summary if isinstance(sink, Sink) else None))

        def write(opened: OpenedPrediction) -> None:
            # imported here, because only rank 0 draws figures
            from mpi_jobs.pipeline.prediction_report import PredictionResults, write_results

            source = self._roles[RoleName.SOURCE]
            results = PredictionResults(
                summary=next(summary for _, summary in gathered if summary is not None),
                ranks=[record for record, _ in gathered],
                layout=self._plan.layout,
                profile=self._profile,
                elapsed_s=source.elapsed_s if isinstance(source, SourceRole) else 0.0,
                device=self._device,
                cores=self._cores,
            )
            write_results(opened, results, self._console)
            opened.release()

        self._opened.run(write)

    def _record(self) -> dict[str, Any]:
        """Return the record of this rank for metrics.json."""
        roles = self._roles
        seconds: dict[str, float] = {}
        for role in roles.values():
            for name, value in role.seconds.items():
                seconds[name] = seconds.get(name, 0.0) + value
        waited = max(0.0, self._seconds - sum(seconds.values()))
        return {
            "host": platform.node(),
            "roles": list(roles),
            "images": next(roles[name].images for name in MAIN if name in roles),
            "seconds": seconds | {"wait": waited},
            "waited": {"wait": waited},
            "communicated": {},
            "threads": self._threads if self._works else 0,
            "peak_mib": peak_mib(),
        }

    def resume_hint(self) -> str:
        """Return how to complete the run after an interrupt."""
        return f"--resume {self._folder} completes it"


def _needed(value: T | None, what: str) -> T:
    """Return what a role of this rank needs.

    Raises:
        RuntimeError: this rank has not prepared it.
    """
    if value is None:
        raise RuntimeError(f"a role of this rank needs a {what}, and none was prepared")
    return value
