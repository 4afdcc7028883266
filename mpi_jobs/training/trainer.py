"""Training, data-parallel: each rank takes its part of each step, and all take the step together.

The gradient of a step is that of the mean loss over all its images, whatever rank they are on. Each rank's loss is
the sum over its own images, divided by how many the step should have; the sum over the ranks is then the mean.
Where images turned out unusable, it is set right by how many there were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.data.catalogue import Skipped
from common.data.images import Block
from common.data.labelled import check_skipped
from common.errors import InputError
from common.evaluate.evaluation import Evaluation, judge
from common.nets.checkpoints import Progress, averaged
from common.nets.classifier import Classifier
from common.nets.networks import needs_two
from common.nets.preprocessing import Augmentation
from mpi_jobs.engine.world import World
from mpi_jobs.training.gradients import Replica
from mpi_jobs.training.loading import Batch, Loader, Share
from mpi_jobs.training.optimisers import Optimiser, Schedule
from mpi_jobs.training.order import Order


@dataclass(frozen=True)
class TrainingSettings:
    """What is not in any of the parts.

    Attributes:
        seed: of the run.
        label_smoothing: share of the target that goes to all classes alike.
        max_corrupt: share of the training images that may be unusable.
        checkpoint_s: seconds after which it is time to save, within an epoch.
    """

    seed: int
    label_smoothing: float
    max_corrupt: float
    checkpoint_s: float


class Score(NamedTuple):
    """What a network said of labelled images.

    Attributes:
        loss: mean cross-entropy.
        evaluation: everything else.
    """

    loss: float
    evaluation: Evaluation


class Told(NamedTuple):
    """What ranks tell each other of a step.

    Attributes:
        images: that all of them used.
        unusable: that they have not met before.
        due: whether to save.
    """

    images: int
    unusable: int
    due: bool


class Trainer:
    """A rank's part in training.

    Args:
        world: the ranks, all of which do the same with theirs.
        classifier: what is trained; its network is this rank's.
        replica: of its parameters.
        optimiser: of them.
        schedule: of the learning rate.
        order: in which images are seen.
        loader: of training and validation images.
        settings: the rest.

    Attributes:
        progress: how far it has come; `loss`, `correct` and `images` are brought up to date by gather().
        images: that this rank has worked on.
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
        self.progress = self._fresh()
        self.images = 0
        self._skipped: dict[str, Skipped] = {}
        self._clear()

    def _fresh(self, **more: Any) -> Progress:
        """The beginning of an epoch."""
        return Progress(cut=[self._order.n, self._order.steps], images=[0] * self._world.size, **more)

    def _clear(self) -> None:
        """Forget what this rank has summed since gather()."""
        self._seen = 0
        device = self._classifier.device
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._seconds = 0.0

    def resume(self, progress: Progress) -> None:
        """Go on from there; parameters, buffers and the optimiser's vectors have been filled."""
        self.progress = progress
        self._optimiser.resume(progress.updates)
        self._skipped = {name: Skipped(name, reason) for name, reason in progress.skipped}

    def epoch(
        self,
        shares: Sequence[Share],
        change: Augmentation | None,
        save: Callable[[], None],
        advance: Callable[[int], object],
    ) -> None:
        """Take the steps of this epoch that are left.

        Args:
            shares: this rank's images of each.
            change: of its images at random.
            save: is called on all ranks when it is time to, after a step.
            advance: is told how many images have been trained on.

        Raises:
            AgreedError: too many images are unusable.
        """
        epoch = self.progress.epoch
        changed = None if change is None else lambda pixels, number: change(pixels, epoch, number)
        self._clear()
        saved = since = time.perf_counter()
        for batch in self._loader.batches(shares, changed):
            due = self._world.is_root and time.perf_counter() - saved > self._settings.checkpoint_s
            told = self._step(batch, due)
            self.progress.step += 1
            advance(told.images)
            if told.unusable:
                self._check_skipped()
            if told.due and self.progress.step < self._order.steps:
                self._seconds += time.perf_counter() - since
                save()
                saved = since = time.perf_counter()
        self._seconds += time.perf_counter() - since

    def _step(self, batch: Batch, due: bool) -> Told:
        """Take a step."""
        progress, n = self.progress, len(batch.labels)
        expected = self._order.step_size(progress.step)
        new = {image.name: image for image in batch.skipped if image.name not in self._skipped}
        self._skipped |= new
        numbers = np.array([n, len(new), due], np.float64)
        telling = self._world.begin_sum(numbers)
        if n:
            self._differentiate(batch, expected)
        self._replica.reduce()
        self._world.complete(telling)
        told = Told(int(numbers[0]), int(numbers[1]), bool(numbers[2]))
        if told.images:
            if told.images != expected:
                for piece in self._replica.pieces:
                    piece.gradient.mul_(expected / told.images)
            self._optimiser.step(self._schedule.at(progress.epoch * self._order.steps + progress.step))
            progress.updates += 1
        self._replica.settle()
        return told

    def _differentiate(self, batch: Batch, expected: int) -> None:
        """Forward and backward, of this rank's images."""
        progress, settings = self.progress, self._settings
        words = [settings.seed, progress.epoch, progress.step, self._world.rank]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))
        self._network.train()
        if self._fragile and len(batch.labels) == 1:
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
        """Stop if too many images are unusable; they are known by name to all ranks then.

        Raises:
            AgreedError: they are.
        """
        everyone = self._world.all_gather(list(self._skipped.values()))
        self._skipped = {image.name: image for skipped in everyone for image in skipped}
        self.progress.skipped = [list(image) for image in sorted(self._skipped.values())]
        skipped, n = list(self._skipped.values()), self._order.n
        self._world.at_root(lambda: check_skipped(skipped, n, "training", self._settings.max_corrupt))

    def _check_finite(self, name: str, value: float) -> None:
        if not np.isfinite(value):
            epoch = self.progress.epoch + 1
            raise InputError(f"the {name} of epoch {epoch} is {value}: the network has diverged; lower --lr")

    def gather(self) -> None:
        """Bring the progress up to date with what all ranks have summed.

        Raises:
            AgreedError: the loss is not a number any more.
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
        """Of all ranks, (ranks, ...), on rank 0; empty elsewhere."""
        own = {name: value.detach().cpu().numpy() for name, value in self._network.named_buffers()}
        everyone = self._world.gather(own)
        return (
            {name: torch.from_numpy(np.stack([each[name] for each in everyone])) for name in own}
            if everyone
            else {}
        )

    def average_buffers(self) -> None:
        """Give all ranks the mean of their buffers, such as the running averages of batch norm."""
        buffers, images = self.buffers(), self.progress.images
        mean = self._world.at_root(
            lambda: {name: value.numpy() for name, value in averaged(buffers, images).items()}
        )
        for name, buffer in self._network.named_buffers():
            buffer.copy_(torch.from_numpy(np.asarray(mean[name])))

    def end_epoch(self, score: Score | None) -> None:
        """Record an epoch, once gather() has been called, and begin the next.

        Args:
            score: on the validation images; on rank 0.

        Raises:
            AgreedError: a loss is not a number any more.
        """
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

        def checked() -> dict[str, float]:
            for name, value in record.items():
                self._check_finite(name.replace("_", " "), value)
            return record

        history = [*progress.history, self._world.at_root(checked)]
        self.progress = self._fresh(
            epoch=progress.epoch + 1, updates=progress.updates, history=history, skipped=progress.skipped
        )


def evaluate(
    world: World, classifier: Classifier, loader: Loader, shares: Sequence[Share], advance: Callable[[int], object]
) -> tuple[Score | None, list[Skipped]]:
    """Score images, dealt out to all ranks.

    Args:
        world: the ranks.
        classifier: the same on all.
        loader: of the images.
        shares: this rank's.
        advance: is told how many images this rank has scored.

    Returns:
        what it said of all images, on rank 0 and if there were any; and those that were unusable, on all.
    """
    loss, found = 0.0, None
    skipped: list[Skipped] = []
    name = loader.name

    def scored(block: Block) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        nonlocal loss
        for where, scores in classifier.score_blocks(block.pixels):
            labels = torch.from_numpy(block.labels[where])
            loss += float(cross_entropy(torch.from_numpy(scores), labels, reduction="sum"))
            yield where, scores

    for batch in loader.batches(shares):
        skipped += batch.skipped
        if len(batch.labels):
            folds = np.zeros(len(batch.labels), np.int16)
            block = Block(batch.pixels, batch.labels, folds, [name(item) for item in batch.items], [])
            own = judge(scored(block), block, len(classifier.class_names))
            found = own if found is None else found + own
        advance(len(batch.labels))
    everyone = world.all_gather(skipped)
    total = world.reduce((loss, found), _combined)
    unusable = [image for each in everyone for image in each]
    if total is None or total[1] is None:
        return None, unusable
    return Score(total[0] / total[1].confusion.n, total[1]), unusable


def _combined(
    a: tuple[float, Evaluation | None], b: tuple[float, Evaluation | None]
) -> tuple[float, Evaluation | None]:
    return a[0] + b[0], a[1] + b[1] if a[1] is not None and b[1] is not None else a[1] or b[1]
