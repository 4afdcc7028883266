"""Optimisers on this rank's pieces of the flat vector, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mpi_jobs.training.gradients import Piece

STATES = {"adam": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}
"""What each optimiser keeps, a number for each parameter, as torch calls it."""

LEARNING_RATES = {"adam": 1e-3, "sgd": 0.05}
"""Defaults for steps of BASE_BATCH images."""
BASE_BATCH = 128

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps of a run.

    Adam's grows with the square root of a step's images, whose gradient has that much less noise (Malladi et al.
    2022); SGD's in proportion to them (Goyal et al. 2017). Both are warmed up from nothing.

    Attributes:
        optimiser: "adam" or "sgd".
        rate: for steps of BASE_BATCH images.
        batch: images of a step, all ranks together.
        steps: of the run.
        warm_up: steps in which the rate rises.
        shape: "cosine", which then falls to nothing along half a cosine, or "constant".
    """

    optimiser: str
    rate: float
    batch: int
    steps: int
    warm_up: int
    shape: str

    @property
    def highest(self) -> float:
        """The rate when it is warm."""
        larger = self.batch / BASE_BATCH
        return self.rate * (larger if self.optimiser == "sgd" else math.sqrt(larger))

    def at(self, step: int) -> float:
        """The rate of a step, counted from 0 over the whole run."""
        if step < self.warm_up:
            return self.highest * (step + 1) / (self.warm_up + 1)
        if self.shape == "constant":
            return self.highest
        past = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.highest * 0.5 * (1 + math.cos(math.pi * min(past, 1.0)))


class Optimiser:
    """torch's own optimiser, on pieces whose state lies in the vectors of a replica.

    Args:
        name: "adam", whose weight decay is decoupled (Loshchilov & Hutter 2019), or "sgd".
        pieces: what to step on.
        momentum: of SGD.
        weight_decay: of all parameters.

    """

    def __init__(self, name: str, pieces: Sequence[Piece], momentum: float, weight_decay: float) -> None:
        self._names = STATES[name]
        self._counts: list[torch.Tensor] = []
        self._torch: torch.optim.Optimizer | None = None
        for piece in pieces:
            piece.values.grad = piece.gradient
        values = [piece.values for piece in pieces]
        if not values:  # a rank that has more neighbours than there are parameters
            return
        if name == "adam":
            self._torch = torch.optim.AdamW(values, lr=1.0, weight_decay=weight_decay, fused=True)
        else:
            self._torch = torch.optim.SGD(values, lr=1.0, momentum=momentum, weight_decay=weight_decay, fused=True)
        for piece in pieces:
            state = dict(zip(self._names, piece.states, strict=True))
            if name == "adam":
                state["step"] = torch.zeros((), dtype=torch.float32, device=piece.values.device)
                self._counts.append(state["step"])
            self._torch.state[piece.values] = state

    def resume(self, steps: int) -> None:
        """Go on after so many steps; the vectors of the state have been filled."""
        for count in self._counts:
            count.fill_(steps)

    def step(self, rate: float) -> None:
        """Step on this rank's pieces."""
        if self._torch is not None:
            for group in self._torch.param_groups:
                group["lr"] = rate
            self._torch.step()
