"""The product ZᵀZ on a GPU: 8-bit integers multiplied by torch._int_mm, with the sums kept on the card."""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.arrays import Floats
from common.int8 import MOST_INNER

if TYPE_CHECKING:
    import torch

DRIVER = Path("/dev/nvidiactl")
"""There if a driver of NVIDIA's is: without it, nobody waits for torch to be imported."""

MULTIPLE = 8
"""The numbers of rows and of columns that the card takes are multiples of this."""

FEWEST_COLUMNS = 32
"""The smallest number of columns that the card takes: it wants more than 16 rows, which are columns of z here."""

ROWS = 16_384
"""Rows per product."""


class TorchProduct:
    """Computes ZᵀZ by products of 8-bit integers on a device of torch's.

    Args:
        d: the number of columns of z.
        device: such as "cuda".
    """

    dtype = np.int8
    rows = min(ROWS, MOST_INNER)

    def __init__(self, d: int, device: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device)
        self._d = d
        self._columns = max(FEWEST_COLUMNS, _up(d))
        self._sums: dict[int, torch.Tensor] = {}
        self.name = f"torch._int_mm on {device}"

    def add(self, z: NDArray[Any], gram: Floats) -> None:
        """Add ZᵀZ to the sum of `gram` on the device; z is int8 (n, d)."""
        torch, n = self._torch, len(z)
        padded = torch.zeros((_up(n), self._columns), dtype=torch.int8, device=self._device)
        padded[:n, : self._d] = torch.from_numpy(np.ascontiguousarray(z)).to(self._device)
        product = torch._int_mm(padded.T.contiguous(), padded)[: self._d, : self._d]
        key = id(gram)
        if key not in self._sums:
            self._sums[key] = torch.zeros((self._d, self._d), dtype=torch.float64, device=self._device)
        self._sums[key] += product

    def complete(self, gram: Floats) -> None:
        """Add the sum on the device to all of `gram`."""
        if id(gram) in self._sums:
            gram += self._sums.pop(id(gram)).cpu().numpy()


@cache
def gpu() -> str | None:
    """Return the device for products of this process, or None: there is no GPU, or no torch that can use it."""
    if not DRIVER.exists() or importlib.util.find_spec("torch") is None:
        return None
    import torch

    return "cuda" if torch.cuda.is_available() else None


def _up(n: int) -> int:
    return math.ceil(n / MULTIPLE) * MULTIPLE
