"""Moves gradients between a device and memory that MPI reads."""

from __future__ import annotations

import torch
from torch import Tensor

WIRE_SCALE = 1024.0
"""Factor by which gradients grow for half precision, so that the small ones of many classes are not lost."""


class Staging:
    """Takes a rank's gradients to where MPI can read them, and the sums back.

    Gradients of a processor are where MPI reads them. Gradients of a GPU pass through pinned host memory, unless
    MPI reads the memory of GPUs itself. In half precision they pass through a vector of their own.

    Args:
        gradient: this rank's gradient vector.
        through_host: whether gradients pass through separate host memory.
        half: whether they travel in half precision.
    """

    def __init__(self, gradient: Tensor, through_host: bool, half: bool) -> None:
        self._gradient, self._half = gradient, half
        self._host: Tensor | None = None
        if through_host:
            self._host = torch.zeros(len(gradient), dtype=gradient.dtype, pin_memory=gradient.is_cuda)

    def send_out(self, span: slice) -> torch.cuda.Event | None:
        """Begin to copy a bucket to where MPI reads it.

        Returns:
            an event that tells when the GPU has got there; None for a processor, which is there at once.
        """
        if self._host is not None:
            self._host[span].copy_(self._gradient[span], non_blocking=True)
        return torch.cuda.current_stream().record_event() if self._gradient.is_cuda else None

    def outgoing(self, span: slice, n_summands: int) -> Tensor:
        """Return the tensor that MPI sums in place, once send_out() is done.

        Args:
            span: the slice of the vector.
            n_summands: the number of ranks whose slices are summed.
        """
        outgoing = (self._gradient if self._host is None else self._host)[span]
        if self._half:
            # neither sums nor their rounding may overflow
            largest = 0.99 * torch.finfo(torch.float16).max / n_summands
            outgoing = (outgoing * WIRE_SCALE).clamp_(-largest, largest).half()
            if outgoing.is_cuda:
                torch.cuda.current_stream().synchronize()
        return outgoing

    def bring_back(self, span: slice, summed: Tensor) -> None:
        """Copy a sum into the gradient vector, if it is not there already.

        Args:
            span: the slice of the vector.
            summed: what outgoing() returned, summed.
        """
        if self._half or self._host is not None:
            self._gradient[span].copy_(summed, non_blocking=True)
        if self._half:
            self._gradient[span] /= WIRE_SCALE
