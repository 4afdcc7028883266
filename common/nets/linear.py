"""Linear layers whose gradients are computed where they are wanted.

Autograd computes a gradient into memory of its own, from where it is copied to the flat vector. Of the head of a
network for many thousand classes that is over a hundred megabytes a step: allocated, written, read, and written
again. Here the product goes straight into the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

LARGE = 1 << 18
"""Weights of a layer for which it is worth it."""

Arrived = Callable[[], None]


class Sink:
    """Where a layer's gradients go.

    Args:
        module: the layer.
        weight: the gradient of its weight is computed here; (out, in), contiguous.
        bias: and that of its bias, (out,), if it has one.
        arrived: is called when they are there.
    """

    def __init__(self, module: nn.Linear, weight: Tensor, bias: Tensor | None, arrived: Arrived) -> None:
        self._module, self._weight, self._bias, self._arrived = module, weight, bias, arrived
        self._underway = False
        module.forward = self._forward  # type: ignore[method-assign, assignment]

    def _forward(self, features: Tensor) -> Tensor:
        """What the layer does; as torch does it where nothing is to be gained."""
        module = self._module
        learns = torch.is_grad_enabled() and features.dim() == 2
        if not learns or torch.is_autocast_enabled(features.device.type):
            return linear(features, module.weight, module.bias)
        if self._underway:
            raise RuntimeError("a network that uses a linear layer twice in one step")
        self._underway = True
        result: Tensor = _Linear.apply(features, module.weight, module.bias, self)
        return result

    def take(self, features: Tensor, gradient: Tensor) -> None:
        """Compute the gradients of weight and bias.

        Args:
            features: (n, in), what the layer was given.
            gradient: (n, out), of what it made of them.
        """
        torch.mm(gradient.t(), features, out=self._weight)
        if self._bias is not None:
            torch.sum(gradient, 0, out=self._bias)
        self._underway = False
        self._arrived()


class _Linear(torch.autograd.Function):
    """A linear layer with a sink for its gradients."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, sink: Sink) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.sink = sink
        return linear(features, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        features, weight = ctx.saved_tensors
        ctx.sink.take(features, gradient)
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None
