"""Data-parallel training: each rank takes its share of each step, and all ranks take the step together.

The gradient of a step is the gradient of the mean loss over all its images, whatever ranks they are on. Each
rank's loss is the sum over its own images, divided by the number of images that the step should have; the sum over
the ranks is then the mean. Where images had to be skipped, the gradient is scaled by the number that were used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.data.catalogue import Skipped
from common.data.labelled import check_skipped
from common.errors import RunError
from common.nets.checkpoints import Progress, averaged
from common.nets.classifier import Classifier
from common.nets.networks import needs_two
from common.nets.preprocessing import Augmentation
from mpi_jobs.engine.world import World
from mpi_jobs.training.loading import Batch, Loader, Share
from mpi_jobs.training.optimisers import Optimiser, Schedule
from mpi_jobs.training.order import Order
from mpi_jobs.training.replica import Replica
from mpi_jobs.training.scoring import Score


@dataclass(frozen=True)
class TrainingSettings:
    """Settings that belong to none of the trainer's parts.

    Attributes:
        seed: the seed of the run.
        label_smoothing: the share of the target that is spread over all classes.
        max_corrupt: the share of the training images that may be skipped.
        checkpoint_s: seconds between checkpoints within an epoch.
        freeze: the number of epochs, from the first, in which the backbone is left as it is. If there are any, or
            the head began as a ridge classifier, batch norms stay in evaluation mode to the end: a head that was
            fitted to what they make there is useless as soon as they make something else.
    """

    seed: int
    label_smoothing: float
    max_corrupt: float
    checkpoint_s: float
    freeze: int = 0


class StepTotals(NamedTuple):
    """Sums of a step over all ranks.

    Attributes:
        images: the number of images that were used.
        new_skipped: the number of images that were skipped for the first time.
        save_due: whether it is time to save.
    """

    images: int
    new_skipped: int
    save_due: bool


class Trainer:
    """A rank's part in training.

    Args:
        world: the ranks, all of which do the same with their trainers.
        classifier: the network to train, of this rank.
        replica: the network's parameters.
        optimiser: steps the parameters.
        schedule: the learning rate.
        order: the order in which images are seen.
        loader: reads training images.
        settings: the rest.

    Attributes:
        progress: how far training has come; gather() brings `loss`, `correct`, `images` and `seconds` up to date.
        images: the number of images that this rank has worked on.
    """

    def __init__(
        self,
        world: World,
        classifier: Classifier,
        replica: Replica,
        optimiser: Optimiser,
        schedule: Schedule,
        order: Order,
        loader: Loader,
        settings: TrainingSettings,
    ) -> None:
        self._world, self._classifier = world, classifier
        self._replica, self._optimiser = replica, optimiser
        self._schedule, self._order, self._loader = schedule, order, loader
        self._settings = settings
        self._network = classifier.network
        self._norms = [m for m in self._network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._fragile = bool(self._norms) and needs_two(self._network, classifier.spec)
        self.progress = order.begin()
        self.images = 0
        self._skipped: dict[str, Skipped] = {}
        self._clear()

    def _clear(self) -> None:
        """Set the sums of this rank since the last gather() to zero."""
        self._seen = 0
        device = self._classifier.device
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._seconds = 0.0

    def resume(self, progress: Progress) -> None:
        """Continue from `progress`; parameters, buffers and the optimiser's vectors have been filled."""
        self.progress = progress
        self._optimiser.resume(progress.updates, progress.frozen_updates)
        self._skipped = {name: Skipped(name, reason) for name, reason in progress.skipped}

    @property
    def _frozen(self) -> bool:
        """True in epochs in which the backbone is left as it is."""
        return self.progress.epoch < self._settings.freeze

    @property
    def _keeps_norms(self) -> bool:
        """True if batch norms stay in evaluation mode."""
        return self._settings.freeze > 0 or bool(self.progress.ridge_head)

    def epoch(
        self,
        shares: Sequence[Share],
        augmentation: Augmentation | None,
        save: Callable[[], None],
        advance: Callable[[int], object],
    ) -> None:
        """Take the remaining steps of the current epoch.

        Args:
            shares: this rank's images of each step.
            augmentation: random changes to images.
            save: called on all ranks, after a step, when it is time to save.
            advance: called with the number of images of each step.

        Raises:
            AgreedError: too many images were skipped.
        """
        epoch = self.progress.epoch
        change = None if augmentation is None else lambda pixels, number: augmentation(pixels, epoch, number)
        self._clear()
        self._replica.freeze(self._frozen)
        saved = since = time.perf_counter()
        for batch in self._loader.batches(shares, change):
            save_due = self._world.is_root and time.perf_counter() - saved > self._settings.checkpoint_s
            totals = self._step(batch, save_due)
            self.progress.step += 1
            advance(totals.images)
            if totals.new_skipped:
                self._check_skipped()
            if totals.save_due and self.progress.step < self._order.steps:
                self._seconds += time.perf_counter() - since
                save()
                saved = since = time.perf_counter()
        self._seconds += time.perf_counter() - since

    def _step(self, batch: Batch, save_due: bool) -> StepTotals:
        """Take a step."""
        progress, n = self.progress, len(batch.labels)
        expected = self._order.step_size(progress.step)
        new = {image.name: image for image in batch.skipped if image.name not in self._skipped}
        self._skipped |= new
        sums = np.array([n, len(new), save_due], np.float64)
        summing = self._world.begin_sum(sums)
        if n:
            self._differentiate(batch, expected)
        self._replica.reduce()
        self._world.complete(summing)
        totals = StepTotals(int(sums[0]), int(sums[1]), bool(sums[2]))
        if totals.images:
            if totals.images != expected:
                for part in self._replica.slices:
                    part.gradient.mul_(expected / totals.images)
            rate = self._schedule.at(progress.epoch * self._order.steps + progress.step)
            self._optimiser.step(rate, self._frozen)
            progress.updates += 1
            progress.frozen_updates += self._frozen
        self._replica.settle()
        return totals

    def _differentiate(self, batch: Batch, expected: int) -> None:
        """Run forward and backward on this rank's images."""
        progress, settings = self.progress, self._settings
        # dropout follows from the numbers of epoch, step and rank alone
        words = [settings.seed, progress.epoch, progress.step, self._world.rank]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))
        self._network.train()
        if self._keeps_norms or (self._fragile and len(batch.labels) == 1):
            for norm in self._norms:
                norm.eval()
        labels = torch.from_numpy(batch.labels).to(self._classifier.device)
        logits = self._classifier.logits(batch.pixels)
        loss = cross_entropy(logits, labels, reduction="sum", label_smoothing=settings.label_smoothing)
        (loss / expected).backward()  # type: ignore[no-untyped-call]
        self._loss += loss.detach()
        self._correct += (logits.detach().argmax(1) == labels).sum()
        self._seen += len(labels)
        self.images += len(labels)

    def _check_skipped(self) -> None:
        """Share the skipped images among all ranks, and stop if they are too many.

        Raises:
            AgreedError: they are.
        """
        everyone = self._world.all_gather(list(self._skipped.values()))
        self._skipped = {image.name: image for skipped in everyone for image in skipped}
        self.progress.skipped = [list(image) for image in sorted(self._skipped.values())]
        skipped, n = list(self._skipped.values()), self._order.n
        self._world.at_root(lambda: check_skipped(skipped, n, "training", self._settings.max_corrupt))

    def _check_finite(self, name: str, value: float) -> None:
        """Raise RunError if a figure of the current epoch is not finite."""
        if not np.isfinite(value):
            epoch = self.progress.epoch + 1
            raise RunError(f"the {name} of epoch {epoch} is {value}: the network has diverged; lower --lr")

    def gather(self) -> None:
        """Add the sums of all ranks to the progress.

        Raises:
            AgreedError: the loss is not finite.
        """
        sums = np.array([float(self._loss), float(self._correct)])
        seen = np.zeros(self._world.size, np.int64)
        seen[self._world.rank] = self._seen
        self._world.sum(sums)
        self._world.sum(seen)
        self._world.at_root(lambda: self._check_finite("loss", float(sums[0])))
        self.progress.loss += float(sums[0])
        self.progress.correct += int(sums[1])
        self.progress.images = [a + b for a, b in zip(self.progress.images, seen.tolist(), strict=True)]
        self.progress.seconds += self._seconds
        self._clear()

    def buffers(self) -> dict[str, Tensor]:
        """Return the buffers of all ranks, (n_ranks, ...), on rank 0; an empty dictionary elsewhere."""
        own = {name: value.detach().cpu().numpy() for name, value in self._network.named_buffers()}
        everyone = self._world.gather(own)
        if not everyone:
            return {}
        return {name: torch.from_numpy(np.stack([buffers[name] for buffers in everyone])) for name in own}

    def average_buffers(self) -> None:
        """Give all ranks the mean of their buffers, such as the running averages of batch norm."""
        buffers, images = self.buffers(), self.progress.images
        mean = self._world.at_root(
            lambda: {name: value.numpy() for name, value in averaged(buffers, images).items()}
        )
        for name, buffer in self._network.named_buffers():
            buffer.copy_(torch.from_numpy(np.asarray(mean[name])))

    def end_epoch(self, score: Score | None) -> None:
        """Add the record of the current epoch to the history, after gather(), and begin the next epoch.

        Args:
            score: the score on the validation images; on rank 0.

        Raises:
            AgreedError: a figure is not finite.
        """
        progress, record = self.progress, self._record(score)

        def checked() -> dict[str, float]:
            for name, value in record.items():
                self._check_finite(name.replace("_", " "), value)
            return record

        history = [*progress.history, self._world.at_root(checked)]
        self.progress = self._order.begin()
        self.progress.epoch, self.progress.updates = progress.epoch + 1, progress.updates
        self.progress.frozen_updates, self.progress.ridge_head = progress.frozen_updates, progress.ridge_head
        self.progress.history, self.progress.skipped = history, progress.skipped

    def _record(self, score: Score | None) -> dict[str, float]:
        """Return the figures of the current epoch."""
        progress, n = self.progress, max(1, sum(self.progress.images))
        record: dict[str, float] = {
            "loss": progress.loss / n,
            "accuracy": progress.correct / n,
            "learning_rate": self._schedule.at((progress.epoch + 1) * self._order.steps - 1),
            "seconds": progress.seconds,
            "images_per_second": n / progress.seconds,
        }
        if score is not None:
            confusion = score.evaluation.confusion
            record |= {
                "validation_loss": score.loss,
                "validation_accuracy": confusion.accuracy(),
                "validation_top5": score.evaluation.near / max(1, confusion.n),
                "macro_f1": confusion.by_class().macro_f1(),
            }
        return record
