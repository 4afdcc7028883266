"""A training run on all ranks: parts that fit together, epoch by epoch, and checkpoints to go on from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.arrays import Indices
from common.console import Console
from common.data.catalogue import Catalogue, Skipped
from common.data.labelled import check_skipped
from common.errors import InputError
from common.nets.checkpoints import BEST, LAST, Checkpoint, Progress, averaged, read_weights
from common.nets.classifier import Classifier
from common.nets.networks import build, load_weights
from common.nets.preprocessing import Augmentation
from mpi_jobs.engine.clock import RankClock
from mpi_jobs.engine.world import World
from mpi_jobs.training.devices import find_device
from mpi_jobs.training.flags import recipe
from mpi_jobs.training.gradients import ExchangeSettings, Replica
from mpi_jobs.training.loading import Loader, PixelCache
from mpi_jobs.training.opening import BATCH, Asked, Opened, ask, find_facts, open_images
from mpi_jobs.training.optimisers import STATES, Optimiser, Schedule
from mpi_jobs.training.order import Order, deal
from mpi_jobs.training.results import Results, write_results
from mpi_jobs.training.scalars import Scalars
from mpi_jobs.training.trainer import Score, Trainer, TrainingSettings, evaluate


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
        asked = world.at_root_only(lambda: ask(argv, world.size))
        self.arguments = world.at_root(lambda: _known(asked).arguments)
        # phases come back every epoch, which has a line of its own
        self._console = Console(self.arguments.quiet or not world.is_root, phases=False)
        self._clock = RankClock(world, self._console)
        self._device = find_device(world, self.arguments.device, self.arguments.bf16)
        self._threads: int = self.arguments.threads or max(1, world.cores // world.neighbours)
        torch.set_num_threads(self._threads)
        self._root = world.at_root_only(lambda: open_images(_known(asked), self._console))
        self._digests = self._root.digests if self._root else {}
        self.facts = world.at_root(lambda: find_facts(self.arguments, self._opened))
        self._tested: Score | None = None
        self._validated: Score | None = None
        self._skipped: dict[str, Skipped] = {}
        self._scalars: Scalars | None = None
        self._saved = ""
        self._assemble()
        self._restore()
        for note in asked.notes if asked else ():
            self._console.say(note)

    @property
    def _opened(self) -> Opened:
        """For what only rank 0 does."""
        if self._root is None:
            raise ValueError("only rank 0 has the images open")
        return self._root

    # assembling

    def _assemble(self) -> None:
        """Make the parts."""
        world, arguments, facts = self._world, self.arguments, self.facts
        network = world.everywhere(lambda: self._build())
        if arguments.weights is not None:
            world.at_root(lambda: self._start_from(arguments.weights, network))
        self.classifier = Classifier(
            facts.spec, network, facts.preprocessing, facts.classes.names, self._device, arguments.bf16
        )
        settings = ExchangeSettings(
            arguments.exchange == "shared", int(arguments.bucket_mib * 2**20), arguments.wire, arguments.cuda_aware
        )
        self._replica = Replica(world, network, len(STATES[arguments.optimiser]), settings)
        for host in self._replica.unshared if world.is_root else ():
            self._console.warn(f"{host} has no memory for its ranks to share; they send each other messages")
        optimiser = Optimiser(
            arguments.optimiser, self._replica.pieces, arguments.momentum, arguments.weight_decay
        )
        self._order = Order(facts.n_train, min(arguments.global_batch, facts.n_train), world.size, arguments.seed)
        steps = self._order.steps
        self._schedule = Schedule(
            arguments.optimiser, arguments.lr, self._order.batch, arguments.epochs * steps,
            math.ceil(arguments.warm_up * steps), arguments.schedule,
        )  # fmt: skip
        self._decoders: int = arguments.decoders or self._threads
        self._loader = Loader(facts.reader, self._decoders, self._make_cache())
        self._trainer = Trainer(
            world, self.classifier, self._replica, optimiser, self._schedule, self._order, self._loader,
            TrainingSettings(
                arguments.seed, arguments.label_smoothing, arguments.max_corrupt, 60 * arguments.checkpoint_minutes
            ),
        )  # fmt: skip
        wanted = set((arguments.augment or "").split(","))
        self._augmentation = (
            Augmentation("flip" in wanted, "crop" in wanted, arguments.seed) if arguments.augment else None
        )

    def _build(self) -> torch.nn.Module:
        """Make this rank's network."""
        torch.manual_seed(self.arguments.seed % 2**63)
        try:
            return build(self.facts.spec)
        except (RuntimeError, MemoryError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"the network cannot be made ({reason}); a smaller --image-size may help") from error

    def _make_cache(self) -> PixelCache | None:
        """A cache for what has to be decoded."""
        facts, budget = self.facts, int(self.arguments.cache * 2**20)
        if not facts.reader.decodes or not budget:
            return None
        return PixelCache(self._world.machine(), facts.n_train + facts.n_validation, facts.reader.shape, budget)

    def _start_from(self, path: Path, network: torch.nn.Module) -> None:
        """Load the weights of --weights into rank 0's network, which are everyone's then."""
        weights = read_weights(path)
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
        world.at_root(lambda: None if checkpoint is None else checkpoint.check(self.classifier.network))
        own = {name: value.cpu()[None] for name, value in self.classifier.network.named_buffers()}
        images = checkpoint.progress.images if checkpoint else [1]
        self._fill_buffers(checkpoint.buffers if checkpoint else own, images)
        progress: Progress | None = world.at_root(lambda: checkpoint.progress if checkpoint else None)
        if progress is None:
            return
        replica.fill(replica.values, checkpoint.parameters if checkpoint else None)
        for name, state in zip(STATES[self.arguments.optimiser], replica.states, strict=True):
            replica.fill(state, world.at_root_only(partial(self._vectors, name)))
        going_on = progress.going_on(self._trainer.progress.cut, world.size)
        if world.is_root and going_on.step != progress.step:
            self._console.say(f"epoch {progress.epoch + 1} begins again: its steps are not those of before")
        self._trainer.resume(going_on)
        if self._root is not None:
            self._root.checkpoint = None  # three times the parameters

    def _vectors(self, name: str) -> dict[str, torch.Tensor]:
        checkpoint = self._opened.checkpoint
        if checkpoint is None or name not in checkpoint.optimiser:
            raise InputError(
                f"--optimiser {self.arguments.optimiser}: the run to go on with has another; leave the flag out, "
                f"or begin a new run with --weights {self.arguments.resume / LAST}"
            )
        return checkpoint.optimiser[name]

    def _fill_buffers(self, rows: Mapping[str, torch.Tensor], images: Sequence[int]) -> None:
        """Set this rank's buffers to its row of rank 0's `rows`, or to their mean where there are other ranks."""
        arrays, images = self._world.at_root(lambda: ({name: row.numpy() for name, row in rows.items()}, images))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        mean = averaged(tensors, images)
        for name, buffer in self.classifier.network.named_buffers():
            same = len(tensors[name]) == self._world.size
            buffer.copy_(tensors[name][self._world.rank] if same else mean[name])

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
            shares = deal(world, self._order, *self._images(validation=False), epoch, progress.step)
        left = sum(self._order.step_size(step) for step in range(progress.step, self._order.steps))
        what = f"epoch {epoch + 1}/{self.arguments.epochs}"
        with self._console.bar(left, "img", what) as advance, self.phase("train"):
            self._trainer.epoch(shares, self._augmentation, self._save, advance)
            self._trainer.gather()

    def _images(self, validation: bool) -> tuple[Catalogue | None, Indices | None]:
        """Those of validation or of training: the catalogue they are in, and which of it; on rank 0."""
        return (self._root.train.catalogue, self._root.numbers(validation)) if self._root else (None, None)

    def validate(self) -> None:
        """Score the network on all validation images, with the buffers of all ranks averaged."""
        with self.phase("validation"):
            self._trainer.average_buffers()
            images, numbers = self._images(validation=True)
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
        with self._console.bar(n // self._world.size, "img", what) as advance:
            score, skipped = evaluate(self._world, self.classifier, loader, shares, advance)
        self._skipped |= {image.name: image for image in skipped}

        def check() -> None:
            check_skipped(skipped, n, what, self.arguments.max_corrupt)
            if score is None:
                raise InputError(f"no usable {what} image is left; mend the images or hold out more")

        self._world.at_root(check)
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
                self._scalars = self._scalars or Scalars(self._opened.path / "tensorboard")
                self._scalars.write(len(history), record)

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
                {name: replica.named(state) for name, state in vectors}, progress, self.facts.classes,
                self.facts.preprocessing, recipe(self.arguments), self._digests, self._world.size,
            )  # fmt: skip
            history = progress.history
            best = bool(history) and not progress.step and progress.best == len(history) - 1
            checkpoint.save(opened.path / LAST, opened.path / BEST if best else None)
            within = f"step {progress.step} of epoch {progress.epoch + 1}" if progress.step else ""
            self._saved = within or f"epoch {progress.epoch}"

        self._world.at_root_only(write)

    # finishing

    def test(self) -> None:
        """Score the best epoch's network on all test images."""
        world, facts = self._world, self.facts
        with self.phase("test"):
            best = world.at_root_only(lambda: Checkpoint.load(self._opened.path / BEST))
            self._replica.fill(self._replica.values, best.parameters if best else None)
            self._fill_buffers(best.buffers if best else {}, best.progress.images if best else [])
            images = self._root.test.catalogue if self._root else None
            loader = Loader(facts.test_reader, self._decoders)
            numbers = np.arange(facts.n_test) if self._root else None
            self._tested = self._score(loader, images, numbers, facts.n_test, "test")
            loader.close()

    def finish(self) -> None:
        """Write what was learnt into the run folder and say where its report is.

        Raises:
            AgreedError: the folder cannot be written.
        """
        ranks = self._world.gather(self._clock.record(self._trainer.images))
        self._loader.close()
        if self._scalars is not None:
            self._scalars.close()
        progress = self._trainer.progress
        unusable = {name: Skipped(name, reason) for name, reason in progress.skipped} | self._skipped
        machinery = {
            "parameters": sum(parameter.numel() for parameter in self.classifier.network.parameters()),
            "batch": self._order.batch,
            "learning_rate": self._schedule.highest,
            "device": self._device.type,
            "shared_memory": self._replica.shared,
            "threads": self._threads,
            "cores": self._world.cores,
        }

        def write() -> None:
            if self._tested is None:
                raise ValueError("test() comes first")
            results = Results(progress, self._tested, sorted(unusable.values()), ranks, machinery)
            write_results(self._opened.path, self.arguments, self.facts, results, self._console)

        self._world.at_root_only(write)

    def interrupted(self, interrupt: KeyboardInterrupt) -> None:
        """Add to an interrupt what is left of the run."""
        if self._saved:
            interrupt.add_note(f"--resume {self._opened.path} goes on after {self._saved}")


def _known(asked: Asked | None) -> Asked:
    """For what only rank 0 does."""
    if asked is None:
        raise ValueError("only rank 0 has read the flags")
    return asked
