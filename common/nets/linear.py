"""Linear layers whose gradients are computed where they are needed.

Autograd computes a gradient into memory of its own, from where it is copied into the flat vector of all gradients.
For the head of a network with many thousand classes that is over a hundred megabytes per step: allocated, written,
read, and written again. Here the product goes straight into the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

LARGE = 1 << 18
"""Number of weights from which this is faster."""

Arrived = Callable[[], None]


class WeightGradient:
    """Computes the gradients of one linear layer in given memory; it replaces the layer's `forward`.

    Args:
        module: the layer.
        weight: the gradient of the layer's weight is computed here; (out, in), contiguous.
        bias: the gradient of its bias is computed here, (out,); None for a layer without bias.
        arrived: called once the gradients are there.
    """

    def __init__(self, module: nn.Linear, weight: Tensor, bias: Tensor | None, arrived: Arrived) -> None:
        self._module, self._weight, self._bias, self._arrived = module, weight, bias, arrived
        self._underway = False
        module.forward = self._forward  # type: ignore[method-assign, assignment]

    def _forward(self, features: Tensor) -> Tensor:
        """Apply the layer, by torch's own function if this one would not be faster."""
        module = self._module
        learns = torch.is_grad_enabled() and module.weight.requires_grad and features.dim() == 2
        if not learns or torch.is_autocast_enabled(features.device.type):
            return linear(features, module.weight, module.bias)
        if self._underway:
            raise RuntimeError("a network must not use a linear layer twice in one step")
        self._underway = True
        result: Tensor = _Linear.apply(features, module.weight, module.bias, self)
        return result

    def compute(self, features: Tensor, gradient: Tensor) -> None:
        """Compute the gradients of weight and bias.

        Args:
            features: input of the layer, (n, in).
            gradient: gradient of the layer's output, (n, out).
        """
        torch.mm(gradient.t(), features, out=self._weight)
        if self._bias is not None:
            torch.sum(gradient, 0, out=self._bias)
        self._underway = False
        self._arrived()


class _Linear(torch.autograd.Function):
    """A linear layer whose backward hands the gradients of weight and bias to a WeightGradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, target: WeightGradient) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.target = target
        return linear(features, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        features, weight = ctx.saved_tensors
        ctx.target.compute(features, gradient)
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None
