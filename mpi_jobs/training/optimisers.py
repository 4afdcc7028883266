"""Optimisers of this rank's slices of the flat vector, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from mpi_jobs.training.vector import VectorSlice

STATES = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""Names, as torch calls them, of the states of each optimiser: one number per parameter each."""

LEARNING_RATES = {"adam": 1e-3, "sgd": 0.05}
"""Default learning rates for steps of BASE_BATCH images."""
BASE_BATCH = 128

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps of a run.

    Adam's rate grows with the square root of the number of images per step, whose gradient has that much less
    noise (Malladi et al. 2022); SGD's grows in proportion to it (Goyal et al. 2017). Both are warmed up from zero.

    Attributes:
        optimiser: "adam" or "sgd".
        rate: the learning rate for steps of BASE_BATCH images.
        batch: the number of images per step, over all ranks.
        steps: the number of steps of the run.
        warm_up: the number of steps in which the rate rises.
        shape: the rate after warm-up: "cosine", which falls to zero along half a cosine, or "constant".
    """

    optimiser: str
    rate: float
    batch: int
    steps: int
    warm_up: int
    shape: str

    @property
    def highest(self) -> float:
        """The rate at the end of warm-up."""
        larger = self.batch / BASE_BATCH
        return self.rate * (larger if self.optimiser == "sgd" else math.sqrt(larger))

    def at(self, step: int) -> float:
        """Return the rate of a step, counted from 0 over the whole run."""
        if step < self.warm_up:
            return self.highest * (step + 1) / (self.warm_up + 1)
        if self.shape == "constant":
            return self.highest
        past = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.highest * 0.5 * (1 + math.cos(math.pi * min(past, 1.0)))


BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's constants, as torch has them by default."""


class Optimiser:
    """One of torch's optimisers, on slices whose states lie in the vectors of a replica.

    The functions behind torch's classes are called, because the classes load torch's compiler, which takes each
    rank more than a second.

    Args:
        name: "adam", whose weight decay is decoupled (Loshchilov & Hutter 2019), or "sgd".
        slices: what to step.
        momentum: the momentum of SGD.
        weight_decay: the weight decay of all parameters.
        backbone_lr: the rate of the backbone's slices, as a multiple of the rate of the others.
    """

    def __init__(
        self,
        name: str,
        slices: Sequence[VectorSlice],
        momentum: float,
        weight_decay: float,
        backbone_lr: float = 1.0,
    ) -> None:
        self._name, self._momentum, self._weight_decay = name, momentum, weight_decay
        self._others = _Group([part for part in slices if not part.in_backbone])
        self._backbone = _Group([part for part in slices if part.in_backbone])
        self._backbone_lr = backbone_lr

    def resume(self, steps: int, frozen_steps: int) -> None:
        """Continue after some steps; the vectors of the states have been filled.

        Args:
            steps: the number of steps.
            frozen_steps: how many of them left the backbone as it was.
        """
        self._others.resume(steps)
        self._backbone.resume(steps - frozen_steps)

    def step(self, rate: float, frozen: bool = False) -> None:
        """Step this rank's slices; it has none if it has more neighbours than there are parameters.

        Args:
            rate: the learning rate.
            frozen: whether to leave the backbone as it is.
        """
        self._step(self._others, rate)
        if not frozen:
            self._step(self._backbone, rate * self._backbone_lr)

    def _step(self, group: _Group, rate: float) -> None:
        if not group.values:
            return
        with torch.no_grad():
            if self._name == "adam":
                self._step_adam(group, rate)
            else:
                self._step_sgd(group, rate)

    def _step_adam(self, group: _Group, rate: float) -> None:
        averages, squares = group.states
        beta1, beta2 = BETAS
        adamw(
            group.values,
            group.gradients,
            averages,
            squares,
            [],
            group.counts,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=rate,
            weight_decay=self._weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def _step_sgd(self, group: _Group, rate: float) -> None:
        sgd(
            group.values,
            group.gradients,
            [*group.states[0]],
            fused=True,
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=rate,
            dampening=0,
            nesterov=False,
            maximize=False,
        )


class _Group:
    """Slices that are stepped together, in the lists that torch's functions take.

    Args:
        slices: what is stepped.
    """

    def __init__(self, slices: Sequence[VectorSlice]) -> None:
        self.values = [part.values for part in slices]
        self.gradients = [part.gradient for part in slices]
        self.states = [list(states) for states in zip(*(part.states for part in slices), strict=True)]
        self.counts = [torch.zeros((), dtype=torch.float32, device=values.device) for values in self.values]

    def resume(self, steps: int) -> None:
        """Continue after `steps` steps."""
        for count in self.counts:
            count.fill_(steps)
