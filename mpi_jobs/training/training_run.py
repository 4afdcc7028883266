"""A training run on all ranks: the parts that fit together, epoch by epoch, and checkpoints to resume from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.arrays import Indices
from common.console import Console
from common.data.catalogue import Catalogue, Skipped
from common.data.labelled import check_skipped
from common.errors import InputError
from common.nets.checkpoints import BEST, LAST, Checkpoint, averaged
from common.nets.preprocessing import Augmentation
from mpi_jobs.engine.clock import RankClock
from mpi_jobs.engine.world import World
from mpi_jobs.training.devices import find_device
from mpi_jobs.training.flags import RIDGE, recipe
from mpi_jobs.training.loading import TOGETHER_BYTES, Batch, Loader, PixelCache, Share
from mpi_jobs.training.optimisers import STATES, Optimiser, Schedule
from mpi_jobs.training.order import Order, deal
from mpi_jobs.training.plan import BATCH, OpenedTraining, make_plan, open_training, read_request
from mpi_jobs.training.replica import ExchangeSettings, Replica
from mpi_jobs.training.results import TrainingResults, write_results
from mpi_jobs.training.ridge_head import fit_ridge_head
from mpi_jobs.training.scalars import Scalars
from mpi_jobs.training.scoring import Score, evaluate
from mpi_jobs.training.starting_network import find_head, make_classifier
from mpi_jobs.training.trainer import Trainer, TrainingSettings


class TrainingRun:
    """One run of train_cnn.py on all ranks.

    Args:
        world: the ranks, all of which make this.
        argv: the flags; None for the flags of this process.

    Attributes:
        arguments: the flags, complete.
        plan: what every rank knows of images and network.
        classifier: this rank's network.

    Raises:
        AgreedError: flags or data are wrong; on every rank.
        SystemExit: --help, or flags that do not parse; on every rank.
    """

    def __init__(self, world: World, argv: Sequence[str] | None) -> None:
        self._world = world
        request = world.make_at_root(lambda: read_request(argv, world.size))
        self.arguments = request.share(lambda asked: asked.arguments)
        # phases come back in every epoch, which has a line of its own
        self._console = Console(self.arguments.quiet or not world.is_root, phases=False)
        self._clock = RankClock(world, self._console)
        self._device = find_device(world, self.arguments.device, self.arguments.bf16)
        self._threads: int = self.arguments.threads or max(1, world.cores // world.neighbours)
        torch.set_num_threads(self._threads)
        self._opened = world.make_at_root(lambda: open_training(request.value, self._console))
        self.plan = self._opened.share(lambda opened: make_plan(self.arguments, opened))
        self._tested: Score | None = None
        self._validated: Score | None = None
        self._skipped: dict[str, Skipped] = {}
        self._scalars: Scalars | None = None
        self._saved = ""
        self._table_is_read = False
        self.classifier = make_classifier(world, self.arguments, self.plan, self._device, self._console)
        self._head = find_head(world, self.arguments, self.classifier.network)
        self._replica = self._make_replica()
        self._make_trainer()
        self._restore()
        for note in request.value.notes if world.is_root else ():
            self._console.say(note)
        if self.arguments.head == RIDGE:
            self._begin_head()

    # parts

    def _make_replica(self) -> Replica:
        """Move the parameters of all ranks into vectors, with a backbone if the flags treat it in another way."""
        arguments, network = self.arguments, self.classifier.network
        backbone: set[str] = set()
        if self._head is not None and (arguments.freeze or arguments.backbone_lr != 1):
            backbone = dict(network.named_parameters()).keys() - {self._head.weight, self._head.bias}
        bucket_bytes = int(arguments.bucket_mib * 2**20)
        settings = ExchangeSettings(
            arguments.exchange == "shared", bucket_bytes, arguments.wire, arguments.cuda_aware
        )
        replica = Replica(self._world, network, len(STATES[arguments.optimiser]), settings, backbone)
        for host in replica.vectors.unshared if self._world.is_root else ():
            self._console.warn(f"{host} has no memory for its ranks to share; they send each other messages")
        return replica

    def _make_trainer(self) -> None:
        """Make the trainer and its parts."""
        world, arguments, plan = self._world, self.arguments, self.plan
        optimiser = Optimiser(
            arguments.optimiser,
            self._replica.slices,
            arguments.momentum,
            arguments.weight_decay,
            arguments.backbone_lr,
        )
        self._order = Order(plan.n_train, min(arguments.global_batch, plan.n_train), world.size, arguments.seed)
        steps = self._order.steps
        self._schedule = Schedule(
            optimiser=arguments.optimiser,
            rate=arguments.lr,
            batch=self._order.batch,
            steps=arguments.epochs * steps,
            warm_up=math.ceil(arguments.warm_up * steps),
            shape=arguments.schedule,
        )
        self._decoders: int = arguments.decoders or self._threads
        self._loader = self._make_loader()
        self._trainer = Trainer(
            world,
            self.classifier,
            self._replica,
            optimiser,
            self._schedule,
            self._order,
            self._loader,
            TrainingSettings(
                seed=arguments.seed,
                label_smoothing=arguments.label_smoothing,
                max_corrupt=arguments.max_corrupt,
                checkpoint_s=60 * arguments.checkpoint_minutes,
                freeze=arguments.freeze,
            ),
        )
        changes = set((arguments.augment or "").split(","))
        self._augmentation = (
            Augmentation("flip" in changes, "crop" in changes, arguments.seed) if arguments.augment else None
        )

    def _make_loader(self) -> Loader:
        """Make the reader of training and validation images, with a cache if they are worth keeping."""
        plan, budget, cache = self.plan, int(self.arguments.cache * 2**20), None
        n = plan.n_train + plan.n_validation
        if (plan.reader.decodes or plan.in_table) and budget:
            cache = PixelCache(self._world.machine(), n, plan.reader.shape, budget)
        cached = cache is not None and cache.slots == n
        return Loader(plan.reader, self._decoders, cache, TOGETHER_BYTES if plan.in_table and not cached else 0)

    def _begin_head(self) -> None:
        """Let the head begin as the ridge classifier of the backbone's embeddings."""
        head, vectors = self._head, self._replica.vectors
        if head is None:
            raise RuntimeError("a network without a head")
        self._read_table()
        with self._clock.phase("ridge head"):
            fitted = fit_ridge_head(self._world, self.classifier, head, self._batches(False), self._batches(True))
            parameters = None
            if self._world.is_root:
                own = {head.weight: torch.from_numpy(fitted.weight), head.bias: torch.from_numpy(fitted.bias)}
                parameters = vectors.named(vectors.values) | own
            vectors.fill(vectors.values, parameters)
        self._trainer.progress.ridge_head = fitted.figures
        self._console.say(
            "the head begins as a ridge classifier: λ {lambda:.3g}, scores times {scale:.3g}; validation "
            "{validation_loss:.4f}, {validation_accuracy:.4f} correct".format(**fitted.figures)
        )
        self._save()

    def _batches(self, validation: bool) -> Iterator[Batch]:
        """Read this rank's training or validation images once, as they are."""
        images, numbers = self._images(validation)
        n = self.plan.n_validation if validation else self.plan.n_train
        shares = self._deal(images, numbers, n)
        with self._console.bar(n // self._world.size, "img", "ridge head") as advance:
            for batch in self._loader.batches(shares):
                yield batch
                advance(len(batch.labels))

    # checkpoints

    def _restore(self) -> None:
        """Restore the checkpoint, if there is one; else give all ranks the buffers of rank 0."""
        world, vectors = self._world, self._replica.vectors
        checkpoint = self._opened.value.checkpoint if world.is_root else None
        world.at_root(lambda: None if checkpoint is None else checkpoint.check(self.classifier.network))
        own = {name: value.cpu()[None] for name, value in self.classifier.network.named_buffers()}
        images = checkpoint.progress.images if checkpoint else [1]
        self._fill_buffers(checkpoint.buffers if checkpoint else own, images)
        progress = world.at_root(lambda: checkpoint.progress if checkpoint else None)
        if progress is None:
            return
        vectors.fill(vectors.values, checkpoint.parameters if checkpoint else None)
        states = self._opened.share(self._check_states)
        for name, state in zip(states, vectors.states, strict=True):
            vectors.fill(state, checkpoint.optimiser[name] if checkpoint else None)
        resumed = self._order.resume(progress)
        if world.is_root and resumed.step != progress.step:
            self._console.say(f"epoch {progress.epoch + 1} begins again: its steps are not those of before")
        self._trainer.resume(resumed)
        if world.is_root:
            self._opened.value.checkpoint = None  # it takes three times the memory of the parameters

    def _check_states(self, opened: OpenedTraining) -> tuple[str, ...]:
        """Return the names of the optimiser's states, all of which the checkpoint has."""
        arguments, states = self.arguments, STATES[self.arguments.optimiser]
        if opened.checkpoint is None or not set(states) <= set(opened.checkpoint.optimiser):
            raise InputError(
                f"--optimiser {arguments.optimiser}: the resumed run used another; leave the flag out, "
                f"or begin a new run with --weights {arguments.resume / LAST}"
            )
        return states

    def _fill_buffers(self, rows: Mapping[str, Tensor], images: Sequence[int]) -> None:
        """Set this rank's buffers to its row of rank 0's `rows`, or to their mean if they are of other ranks."""
        arrays, images = self._world.at_root(lambda: ({name: row.numpy() for name, row in rows.items()}, images))
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        mean = averaged(tensors, images)
        for name, buffer in self.classifier.network.named_buffers():
            same = len(tensors[name]) == self._world.size
            buffer.copy_(tensors[name][self._world.rank] if same else mean[name])

    def _save(self) -> None:
        """Write a checkpoint of all ranks' state.

        Raises:
            AgreedError: it cannot be written, or the loss is not finite.
        """
        self._trainer.gather()
        buffers = self._trainer.buffers()
        self._opened.run(lambda opened: self._write_checkpoint(opened, buffers))

    def _write_checkpoint(self, opened: OpenedTraining, buffers: dict[str, Tensor]) -> None:
        progress, vectors = self._trainer.progress, self._replica.vectors
        folder = opened.make_folder()
        states = zip(STATES[self.arguments.optimiser], vectors.states, strict=True)
        checkpoint = Checkpoint(
            spec=self.plan.spec,
            parameters=vectors.named(vectors.values),
            buffers=buffers,
            optimiser={name: vectors.named(state) for name, state in states},
            progress=progress,
            classes=self.plan.classes,
            preprocessing=self.plan.preprocessing,
            arguments=recipe(self.arguments),
            images=opened.digests,
            n_replicas=self._world.size,
        )
        begun = bool(progress.history or progress.ridge_head)
        is_best = begun and not progress.step and progress.best == len(progress.history)
        checkpoint.save(folder / LAST, folder / BEST if is_best else None)
        within = f"step {progress.step} of epoch {progress.epoch + 1}" if progress.step else ""
        self._saved = within or f"epoch {progress.epoch}"

    def resume_hint(self) -> str | None:
        """Return how to continue after an interrupt, on rank 0; None if nothing was saved."""
        return f"--resume {self._opened.value.path} goes on after {self._saved}" if self._saved else None

    # training

    def epochs(self) -> Iterator[int]:
        """Yield the remaining epochs; a table is read before the first."""
        left = range(self._trainer.progress.epoch, self.arguments.epochs)
        if left:
            self._read_table()
        yield from left

    def _read_table(self) -> None:
        """Read a table into the caches of all machines, once."""
        if self.plan.in_table and not self._table_is_read:
            from mpi_jobs.training.table import fill_cache  # other sources need no pyarrow

            images, _ = self._images(validation=False)
            with self._clock.phase("read"):
                fill_cache(self._world, self._loader, self.plan.reader, images, self._console)
            self._table_is_read = True

    def train(self, epoch: int) -> None:
        """Take the steps of an epoch, and save now and then if it is long."""
        world, progress = self._world, self._trainer.progress
        with self._clock.phase("deal"):
            shares = deal(world, self._order, *self._images(validation=False), epoch, progress.step)
        left = sum(self._order.step_size(step) for step in range(progress.step, self._order.steps))
        title = f"epoch {epoch + 1}/{self.arguments.epochs}"
        with self._console.bar(left, "img", title) as advance, self._clock.phase("train"):
            self._trainer.epoch(shares, self._augmentation, self._save, advance)
            self._trainer.gather()

    def _images(self, validation: bool) -> tuple[Catalogue | None, Indices | None]:
        """Return the catalogue and the numbers of training or validation images in it, on rank 0."""
        if not self._world.is_root:
            return None, None
        opened = self._opened.value
        return opened.train.catalogue, opened.numbers(validation)

    def validate(self) -> None:
        """Score the network on all validation images, with the buffers of all ranks averaged."""
        with self._clock.phase("validation"):
            self._trainer.average_buffers()
            images, numbers = self._images(validation=True)
            self._validated = self._score(self._loader, images, numbers, self.plan.n_validation, "validation")

    def _deal(self, images: Catalogue | None, numbers: Indices | None, n: int) -> list[Share]:
        """Deal out n images, in their own order, and return this rank's share of each step."""
        order = Order(n, min(n, BATCH * self._world.size), self._world.size, None)
        return deal(self._world, order, images, numbers)

    def _score(
        self, loader: Loader, images: Catalogue | None, numbers: Indices | None, n: int, what: str
    ) -> Score | None:
        """Score images on all ranks.

        Raises:
            AgreedError: too many images were skipped.
        """
        shares = self._deal(images, numbers, n)
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
        """Record the epoch, save it, and print how it went."""
        with self._clock.phase("checkpoint"):
            self._trainer.end_epoch(self._validated)
            self._save()
        if self._world.is_root:
            self._print_epoch(self._trainer.progress.history)

    def _print_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Print the last record, and write it for TensorBoard."""
        record, width = history[-1], len(str(self.arguments.epochs))
        self._console.say(
            f"epoch {len(history):{width}}/{self.arguments.epochs}: loss {record['loss']:.4f}, "
            f"{record['accuracy']:.4f} correct; validation {record.get('validation_loss', math.nan):.4f}, "
            f"{record.get('validation_accuracy', 0.0):.4f}, macro F1 {record.get('macro_f1', 0.0):.4f}; "
            f"{record['images_per_second']:,.0f} images/s"
        )
        if self.arguments.tensorboard:
            self._scalars = self._scalars or Scalars(self._opened.value.path / "tensorboard")
            self._scalars.write(len(history), record)

    # finishing

    def test(self) -> None:
        """Score the best epoch's network on all test images."""
        world, plan, vectors = self._world, self.plan, self._replica.vectors
        with self._clock.phase("test"):
            loaded = world.make_at_root(lambda: Checkpoint.load(self._opened.value.path / BEST))
            best = loaded.value if world.is_root else None
            vectors.fill(vectors.values, best.parameters if best else None)
            self._fill_buffers(best.buffers if best else {}, best.progress.images if best else [])
            images = self._opened.value.test.catalogue if world.is_root else None
            numbers = np.arange(plan.n_test) if world.is_root else None
            loader = Loader(plan.test_reader, self._decoders, None, TOGETHER_BYTES if plan.in_table else 0)
            self._tested = self._score(loader, images, numbers, plan.n_test, "test")
            loader.close()

    def finish(self) -> None:
        """Write the results into the run folder and print where the report is.

        Raises:
            AgreedError: the folder cannot be written.
        """
        self._clock.images = self._trainer.images
        ranks = self._world.gather(self._clock.record())
        self._loader.close()
        if self._scalars is not None:
            self._scalars.close()
        progress = self._trainer.progress
        skipped = {name: Skipped(name, reason) for name, reason in progress.skipped} | self._skipped

        def write(opened: OpenedTraining) -> None:
            if self._tested is None:
                raise RuntimeError("test() comes before finish()")
            results = TrainingResults(progress, self._tested, sorted(skipped.values()), ranks, self._machinery())
            write_results(opened.path, self.arguments, self.plan, results, self._console)

        self._opened.run(write)

    def _machinery(self) -> dict[str, Any]:
        """Return entries of metrics.json about how the network was trained."""
        return {
            "parameters": sum(parameter.numel() for parameter in self.classifier.network.parameters()),
            "batch": self._order.batch,
            "learning_rate": self._schedule.highest,
            "device": self._device.type,
            "shared_memory": self._replica.vectors.shared,
            "threads": self._threads,
            "cores": self._world.cores,
        }
