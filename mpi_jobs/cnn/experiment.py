"""A training run on all ranks: from flags to parts that fit together, and from what was learnt to a run folder."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.arrays import Indices
from common.catalogue import Catalogue, PixelReader, Skipped
from common.console import Console
from common.decode import PixelFormat
from common.errors import InputError
from common.experiment import command, versions
from common.images import CatalogueImages
from common.opening import check_unusable, open_splits, warn_of_splits
from common.runs import RunFolder, write_json, write_skipped, written_into
from common.splits import ALWAYS_TRAINING, FoldRule
from common.training_report import write_training_report
from mpi_jobs.clock import Clock
from mpi_jobs.cnn.checkpoints import BEST, LAST, Checkpoint, averaged, find, load_tensors
from mpi_jobs.cnn.classifier import Classifier
from mpi_jobs.cnn.flags import SOURCES, differences, recipe, training_parser
from mpi_jobs.cnn.gradients import ExchangeSettings, Replica
from mpi_jobs.cnn.loading import Loader, PixelCache
from mpi_jobs.cnn.networks import SMALL, NetworkSpec, build, load_weights
from mpi_jobs.cnn.optimisers import LEARNING_RATES, STATES, Optimiser, Schedule
from mpi_jobs.cnn.order import Order, deal
from mpi_jobs.cnn.preprocessing import PHOTOGRAPH_SIDE, Augmentation, Preprocessing
from mpi_jobs.cnn.scalars import write_scalars
from mpi_jobs.cnn.training import Score, Trainer, TrainingSettings, evaluate
from mpi_jobs.experiment import counted_ranks, library
from mpi_jobs.world import World

BATCH = 32
"""Images of a step on each rank, where nobody asks for another number."""


class Facts(NamedTuple):
    """What every rank has to know.

    Attributes:
        spec: of the network.
        preprocessing: of all images.
        class_names: one name a class.
        reader: of training and validation images.
        test_reader: of test images.
        n_train: images.
        n_validation: images.
        n_test: images.
    """

    spec: NetworkSpec
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    reader: PixelReader
    test_reader: PixelReader
    n_train: int
    n_validation: int
    n_test: int


@dataclass
class Opened:
    """What rank 0 alone has.

    Attributes:
        train: training and validation images.
        test: images.
        folder: where the run folder will be; None once it is there.
        path: of the run folder.
        checkpoint: that the run goes on from.
    """

    train: CatalogueImages
    test: CatalogueImages
    folder: RunFolder | None
    path: Path
    checkpoint: Checkpoint | None

    def numbers(self, validation: bool) -> Indices:
        """Which of `train` are validation images, or which are not."""
        return np.flatnonzero((self.train.folds != ALWAYS_TRAINING) == validation)


class TrainingRun:
    """One run of train_cnn.py on all ranks.

    Args:
        world: the ranks, all of which make this.
        argv: the flags; None for this process's own.

    Raises:
        AgreedError: flags or data are wrong; on every rank.
        SystemExit: --help, or flags that do not parse; on every rank.
    """

    def __init__(self, world: World, argv: Sequence[str] | None) -> None:
        self._world = world
        self._resumed: Checkpoint | None = None
        self.arguments: argparse.Namespace
        self.arguments, notes = world.at_root(lambda: self._parse(argv))
        self._console = Console(self.arguments.quiet or not world.is_root)
        self._clock = Clock(world, self._console)
        self._device = self._find_device()
        self._threads: int = self.arguments.threads or max(1, world.cores // world.neighbours)
        torch.set_num_threads(self._threads)
        self._root = world.at_root_only(self._open)
        self.facts = world.at_root(self._facts)
        self._assemble()
        self._restore()
        if world.is_root:
            for note in notes:
                self._console.say(note)
        self._tested: Score | None = None
        self._validated: Score | None = None
        self._skipped: dict[str, Skipped] = {}

    # opening

    def _parse(self, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
        """The flags, those of a resumed run filled in, and what a person should know of that."""
        parser = training_parser()
        arguments = parser.parse_arguments(argv)
        notes: list[str] = []
        if arguments.resume is not None:
            if arguments.out is not None or arguments.weights is not None:
                raise InputError("--resume goes on in its own folder with its own weights: no --out, no --weights")
            path = find(arguments.resume)
            self._resumed = checkpoint = Checkpoint.load(path)
            parser.set_defaults(**checkpoint.arguments)
            arguments = parser.parse_arguments(argv)
            if arguments.batch is not None:
                arguments.global_batch = arguments.batch * self._world.size
            notes = self._told_of_resuming(path, checkpoint, arguments)
        if arguments.global_batch is None:
            arguments.global_batch = (arguments.batch or BATCH) * self._world.size
        if arguments.lr is None:
            arguments.lr = LEARNING_RATES[arguments.optimiser]
        return arguments, notes

    def _told_of_resuming(self, path: Path, checkpoint: Checkpoint, arguments: argparse.Namespace) -> list[str]:
        if checkpoint.progress.epoch >= arguments.epochs and (path.parent / "metrics.json").exists():
            raise InputError(
                f"--resume {arguments.resume}: all of its {arguments.epochs} epochs are done; --epochs N for more"
            )
        progress = checkpoint.progress
        where = (
            f"step {progress.step + 1} of epoch {progress.epoch + 1}"
            if progress.step
            else f"epoch {progress.epoch + 1}"
        )
        notes = [f"going on with {where} of {arguments.epochs}"]
        changed = differences(checkpoint.arguments, arguments)
        if checkpoint.ranks != self._world.size:
            changed.insert(0, f"{counted_ranks(self._world.size)} instead of {checkpoint.ranks}, which share the same "
                              f"{arguments.global_batch} images a step: sums are rounded in another order, and batch "
                              "norm sees other images together")  # fmt: skip
        return notes + [f"what differs from before: {each}" for each in changed]

    def _find_device(self) -> torch.device:
        wanted, world = self.arguments.device, self._world
        available = torch.cuda.is_available()

        def check() -> None:
            if wanted == "cuda" and not available:
                raise InputError(
                    "--device cuda: torch sees no GPU here; leave the flag out, or look at nvidia-smi"
                )

        world.everywhere(check)
        device = torch.device("cpu")
        if wanted != "cpu" and available:
            device = torch.device("cuda", world.machine().rank % torch.cuda.device_count())
            torch.cuda.set_device(device)

        def check_bf16() -> None:
            has = (
                torch.cuda.is_bf16_supported()
                if device.type == "cuda"
                else torch.ops.mkldnn._is_mkldnn_bf16_supported()
            )
            if self.arguments.bf16 and not has:
                raise InputError(f"--bf16: this {device.type} does not multiply in bfloat16; leave the flag out")

        world.everywhere(check_bf16)
        return device

    def _open(self) -> Opened:
        arguments, console = self.arguments, self._console
        kind, _, place = arguments.data.partition(":")
        with console.phase("open"):
            if kind == "parquet":
                raise InputError(f"--data {arguments.data}: train_cnn.py reads {SOURCES}")
            side = arguments.image_size or (PHOTOGRAPH_SIDE if place else None)
            form = PixelFormat((side, side) if side else None, arguments.grey, crop=side is not None)
            train, test = open_splits(arguments, form, FoldRule(None, arguments.validation))
            warn_of_splits(console, arguments.limit, train)
        checkpoint = self._resumed
        if checkpoint is None:
            folder = RunFolder(arguments.out, f"train_cnn-{kind}")
            return Opened(train, test, folder, folder.path, None)
        if train.class_names != checkpoint.class_names:
            raise InputError(
                f"--resume {arguments.resume}: it knows {_told(checkpoint.class_names)}, and --data {arguments.data} "
                f"has {_told(train.class_names)}"
            )
        return Opened(train, test, None, find(arguments.resume).resolve().parent, checkpoint)

    @property
    def _opened(self) -> Opened:
        """For what only rank 0 does."""
        if self._root is None:
            raise ValueError("only rank 0 has the images open")
        return self._root

    def _facts(self) -> Facts:
        arguments, opened = self.arguments, self._opened
        height, width, channels = opened.train.shape
        if arguments.network != SMALL:
            channels = 3  # what torchvision's networks take
        spec = NetworkSpec(
            arguments.network, channels, height, width, len(opened.train.class_names), not arguments.no_batch_norm
        )
        if opened.checkpoint is not None and spec != opened.checkpoint.spec:
            raise InputError(
                f"--resume {arguments.resume}: its network is {_described(opened.checkpoint.spec)}, and the flags ask "
                f"for {_described(spec)}"
            )
        reader = opened.train.catalogue.reader
        form = getattr(reader, "form", PixelFormat())
        n_validation = len(opened.numbers(True))
        return Facts(
            spec, Preprocessing.for_channels(form, channels), opened.train.class_names, reader,
            opened.test.catalogue.reader, len(opened.train) - n_validation, n_validation, len(opened.test),
        )  # fmt: skip

    # assembling

    def _assemble(self) -> None:
        """Make the parts."""
        world, arguments, facts = self._world, self.arguments, self.facts
        torch.manual_seed(arguments.seed)
        network = world.everywhere(lambda: build(facts.spec))
        if arguments.weights is not None:
            world.at_root(lambda: self._start_from(arguments.weights, network))
        self.classifier = Classifier(
            facts.spec, network, facts.preprocessing, facts.class_names, self._device, arguments.bf16
        )
        settings = ExchangeSettings(
            arguments.exchange == "shared", int(arguments.bucket_mib * 2**20), arguments.wire, arguments.cuda_aware
        )
        self._replica = Replica(world, network, len(STATES[arguments.optimiser]), settings)
        optimiser = Optimiser(
            arguments.optimiser, self._replica.pieces, arguments.momentum, arguments.weight_decay
        )
        self._order = Order(facts.n_train, min(arguments.global_batch, facts.n_train), world.size, arguments.seed)
        steps = self._order.steps
        self._schedule = Schedule(
            arguments.optimiser, arguments.lr, self._order.batch, arguments.epochs * steps,
            math.ceil(arguments.warm_up * steps), arguments.schedule,
        )  # fmt: skip
        self._loader = Loader(facts.reader, arguments.decoders, self._make_cache())
        self._trainer = Trainer(
            world, self.classifier, self._replica, optimiser, self._schedule, self._order, self._loader,
            TrainingSettings(
                arguments.seed, arguments.label_smoothing, arguments.max_corrupt, 60 * arguments.checkpoint_minutes
            ),
        )  # fmt: skip
        wanted = set(arguments.augment.split(","))
        self._augmentation = (
            Augmentation("flip" in wanted, "crop" in wanted, arguments.seed) if arguments.augment else None
        )

    def _make_cache(self) -> PixelCache | None:
        """A cache for what has to be decoded."""
        facts, budget = self.facts, int(self.arguments.cache * 2**20)
        if not facts.reader.decodes or not budget:
            return None
        return PixelCache(self._world.machine(), facts.n_train + facts.n_validation, facts.reader.shape, budget)

    def _start_from(self, path: Path, network: torch.nn.Module) -> None:
        """Load the weights of --weights into rank 0's network, which are everyone's then."""
        found = load_tensors(path)
        weights = found["parameters"] | averaged(found["buffers"], []) if "parameters" in found else found
        try:
            left = load_weights(network, weights)
        except InputError as error:
            raise InputError(f"--weights {path}: {error}; --network says which network to build") from error
        if left:
            self._console.say(f"{path.name} has no weights that fit {', '.join(left)}: these start at random")

    def _restore(self) -> None:
        """Go on from a checkpoint, if there is one; or spread rank 0's buffers, which --weights may have set."""
        world, replica = self._world, self._replica
        checkpoint = self._root.checkpoint if self._root else None
        network = self.classifier.network
        own = {name: value.cpu()[None].numpy() for name, value in network.named_buffers()}
        rows, images = world.at_root(
            lambda: (own, [1]) if checkpoint is None
            else ({name: value.numpy() for name, value in checkpoint.buffers.items()}, checkpoint.progress.images)
        )  # fmt: skip
        self._fill_buffers({name: torch.from_numpy(value) for name, value in rows.items()}, images)
        progress = world.at_root(lambda: checkpoint and checkpoint.progress)
        if progress is None:
            return
        replica.fill(replica.values, checkpoint.parameters if checkpoint else None)
        for name, state in zip(STATES[self.arguments.optimiser], replica.states, strict=True):
            vectors = world.at_root_only(lambda name=name: self._vectors(name))
            replica.fill(state, vectors)
        cut = [self._order.n, self._order.steps]
        if progress.step and progress.cut != cut:
            progress = replace(progress, step=0, images=[0] * world.size, loss=0.0, correct=0, seconds=0.0)
            if world.is_root:
                self._console.say(f"epoch {progress.epoch + 1} begins again: its steps are not those of before")
        if len(progress.images) != world.size:
            each, more = divmod(sum(progress.images), world.size)
            progress = replace(progress, images=[each + (rank < more) for rank in range(world.size)])
        self._trainer.resume(replace(progress, cut=cut))

    def _vectors(self, name: str) -> dict[str, torch.Tensor]:
        checkpoint = self._opened.checkpoint
        if checkpoint is None or name not in checkpoint.optimiser:
            raise InputError(
                f"--optimiser {self.arguments.optimiser}: the run to go on with has another; leave the flag out, or "
                f"begin a new run with --weights {self.arguments.resume / LAST}"
            )
        return checkpoint.optimiser[name]

    def _fill_buffers(self, rows: dict[str, torch.Tensor], images: Sequence[int]) -> None:
        """Set this rank's buffers to its row, or to the mean where there were other ranks."""
        mean = averaged(rows, images)
        for name, buffer in self.classifier.network.named_buffers():
            same = len(rows[name]) == self._world.size
            buffer.copy_(rows[name][self._world.rank] if same else mean[name])

    # training

    def epochs(self) -> Iterator[int]:
        """The epochs that are left."""
        yield from range(self._trainer.progress.epoch, self.arguments.epochs)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Time a phase on this rank."""
        return self._clock.phase(name)

    def train(self, epoch: int) -> None:
        """Take the steps of an epoch; save now and then if it is long."""
        world, progress = self._world, self._trainer.progress
        with self.phase("deal"):
            images, numbers = self._training_images()
            shares = deal(world, self._order, images, numbers, epoch, progress.step)
        left = sum(self._order.step_size(step) for step in range(progress.step, self._order.steps))
        what = f"epoch {epoch + 1}/{self.arguments.epochs}"
        with self._console.bar(left, "img", what, show=False) as advance, self.phase("train"):
            self._trainer.epoch(shares, self._augmentation, self._save, advance)
            self._trainer.gather()

    def _training_images(self) -> tuple[Catalogue | None, Indices | None]:
        return (self._root.train.catalogue, self._root.numbers(False)) if self._root else (None, None)

    def validate(self) -> None:
        """Score the network on all validation images, with the buffers of all ranks averaged."""
        with self.phase("validation"):
            self._trainer.average_buffers()
            images, numbers = (
                (self._root.train.catalogue, self._root.numbers(True)) if self._root else (None, None)
            )
            self._validated = self._score(self._loader, images, numbers, self.facts.n_validation, "validation")

    def _score(
        self, loader: Loader, images: Catalogue | None, numbers: Indices | None, n: int, what: str
    ) -> Score | None:
        """Score images on all ranks.

        Raises:
            AgreedError: too many are unusable.
        """
        order = Order(n, min(n, BATCH * self._world.size), self._world.size, None)
        shares = deal(self._world, order, images, numbers)
        with self._console.bar(n // self._world.size, "img", what, show=False) as advance:
            score, skipped = evaluate(self._world, self.classifier, loader, shares, advance)
        self._skipped |= {image.name: image for image in skipped}
        self._world.at_root(lambda: check_unusable(skipped, n, what, self.arguments.max_corrupt))
        return score

    def end_epoch(self) -> None:
        """Record the epoch, save it, and say how it went."""
        with self.phase("checkpoint"):
            self._trainer.end_epoch(self._validated)
            self._save()
        history = self._trainer.progress.history
        record = history[-1]
        width = len(str(self.arguments.epochs))
        if self._world.is_root:
            self._console.say(
                f"epoch {len(history):{width}}/{self.arguments.epochs}: loss {record['loss']:.4f}, "
                f"{record['accuracy']:.4f} correct; validation {record.get('validation_loss', math.nan):.4f}, "
                f"{record.get('validation_accuracy', 0.0):.4f}, macro F1 {record.get('macro_f1', 0.0):.4f}; "
                f"{record['images_per_second']:,.0f} images/s"
            )
            if self.arguments.tensorboard:
                write_scalars(self._opened.path / "tensorboard", len(history), record)

    def _save(self) -> None:
        """Write a checkpoint of all ranks' state."""
        trainer, replica = self._trainer, self._replica
        trainer.gather()
        buffers = trainer.buffers()
        progress = trainer.progress

        def write() -> None:
            opened = self._opened
            if opened.folder is not None:
                opened.path, opened.folder = opened.folder.begin(), None
            vectors = zip(STATES[self.arguments.optimiser], replica.states, strict=True)
            checkpoint = Checkpoint(
                self.facts.spec, replica.named(replica.values), buffers,
                {name: replica.named(state) for name, state in vectors}, progress, self.facts.class_names,
                self.facts.preprocessing, recipe(self.arguments), self._world.size,
            )  # fmt: skip
            history = progress.history
            best = bool(history) and not progress.step and progress.best == len(history) - 1
            checkpoint.save(opened.path / LAST, opened.path / BEST if best else None)

        self._world.at_root_only(write)

    # finishing

    def test(self) -> None:
        """Score the best epoch's network on all test images."""
        world, facts = self._world, self.facts
        with self.phase("test"):
            best = world.at_root_only(lambda: Checkpoint.load(self._opened.path / BEST))
            self._replica.fill(self._replica.values, best.parameters if best else None)
            rows = world.at_root(
                lambda: {name: value.numpy() for name, value in best.buffers.items()} if best else {}
            )
            self._fill_buffers({name: torch.from_numpy(value) for name, value in rows.items()}, [1] * world.size)
            images = self._root.test.catalogue if self._root else None
            loader = Loader(facts.test_reader, self.arguments.decoders)
            numbers = np.arange(facts.n_test) if self._root else None
            self._tested = self._score(loader, images, numbers, facts.n_test, "test")
            loader.close()

    def finish(self) -> None:
        """Write what was learnt into the run folder and say where its report is.

        Raises:
            AgreedError: no test image was usable, or the folder cannot be written.
        """
        ranks = self._world.gather(self._clock.record(self._trainer.images))
        self._loader.close()
        self._world.at_root_only(lambda: self._write(ranks))

    def _write(self, ranks: list[dict[str, Any]]) -> None:
        arguments, facts, opened, tested = self.arguments, self.facts, self._opened, self._tested
        progress, console = self._trainer.progress, self._console
        if tested is None:
            raise InputError("no usable test image is left; mend the images or use a larger --test")
        unusable = {name: Skipped(name, reason) for name, reason in progress.skipped} | self._skipped
        skipped = sorted(unusable.values())
        confusion = tested.evaluation.confusion
        by_class = confusion.by_class()
        best = progress.history[progress.best]
        record: dict[str, Any] = {
            "job": "train_cnn",
            "engine": f"{library()}, {counted_ranks(self._world.size)}",
            "command": f"mpiexec -n {self._world.size} {command()}",
            "data": arguments.data,
            "images": {
                "train": facts.n_train, "validation": facts.n_validation, "test": confusion.n,
                "skipped": len(skipped),
            },
            "shape": list(facts.reader.shape),
            "preprocessing": str(facts.preprocessing),
            "classes": list(facts.class_names),
            "network": facts.spec.name,
            "parameters": self._replica.layout.length,
            "batch": self._order.batch,
            "optimiser": arguments.optimiser,
            "learning_rate": self._schedule.highest,
            "recipe": recipe(arguments),
            "epochs": progress.history,
            "best_epoch": progress.best + 1,
            "validation_accuracy": best["validation_accuracy"],
            "test_loss": tested.loss,
            "test_accuracy": confusion.accuracy(),
            "test_top5": tested.evaluation.near / confusion.n,
            "macro_f1": by_class.macro_f1(),
            "per_class": {
                "precision": by_class.precision.tolist(),
                "recall": by_class.recall.tolist(),
                "test_images": by_class.true.tolist(),
            },
            "device": str(self._device.type),
            "shared_memory": self._replica.shared,
            "workers": self._world.size,
            "threads": self._threads,
            "cores": self._world.cores,
            "ranks": ranks,
            "seed": arguments.seed,
            "versions": versions(),
        }  # fmt: skip
        with written_into(opened.path):
            with console.phase("report"):
                if skipped:
                    write_skipped(opened.path / "skipped.csv", skipped)
                record["seconds"] = console.seconds | {"total": console.total_seconds()}
                write_training_report(opened.path, record, tested.evaluation, skipped)
            record["seconds"] = console.seconds | {"total": console.total_seconds()}
            write_json(opened.path / "metrics.json", record)
        if skipped:
            console.warn(f"{len(skipped)} images were skipped; {opened.path / 'skipped.csv'} lists them")
        console.say(
            f"train_cnn on {record['engine']}: {facts.n_train:,} training and {confusion.n:,} test images from "
            f"{arguments.data}"
        )
        console.say(
            f"best epoch {record['best_epoch']}: {best['validation_accuracy']:.4f} of validation, "
            f"{record['test_accuracy']:.4f} of test images correct, macro F1 {record['macro_f1']:.4f}"
        )
        print(f"report: {opened.path / 'report.html'}")

    def interrupted(self, interrupt: KeyboardInterrupt) -> None:
        """Add to an interrupt what is left of the run."""
        opened, progress = self._root, self._trainer.progress
        if opened is not None and (opened.path / LAST).exists():
            interrupt.add_note(f"--resume {opened.path} goes on after epoch {len(progress.history)}")


def _told(class_names: Sequence[str]) -> str:
    shown = ", ".join(class_names[:4]) + (", …" if len(class_names) > 4 else "")
    return f"{len(class_names):,} classes ({shown})"


def _described(spec: NetworkSpec) -> str:
    norm = "" if spec.batch_norm else " without batch norm"
    return (
        f"{spec.name}{norm} for images of {spec.height}x{spec.width}x{spec.channels} in {spec.n_classes:,} classes"
    )
