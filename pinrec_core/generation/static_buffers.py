"""Tensors of fixed shapes that lie in one block of bytes, on the host and again on the device: one copy moves them all.

A captured program reads and writes the same addresses each time, and so do the copies to it and from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 256
"""Tensors begin at multiples of so many bytes, as CUDA's own allocations do: kernels are compiled for aligned ones."""

Shape = tuple[torch.dtype, tuple[int, ...]]


class StaticBuffers:
    """The same tensors on the host and on a device, each side in one block.

    The block on the host is pinned where the device is a GPU, which reads only pinned memory by itself.
    """

    def __init__(self, shapes: Sequence[Shape], device: torch.device) -> None:
        begins, end = [], 0
        for dtype, sizes in shapes:
            begins.append(end)
            end += -(-dtype.itemsize * math.prod(sizes) // ALIGNMENT) * ALIGNMENT
        self._host = torch.zeros(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._device = torch.zeros(end, dtype=torch.uint8, device=device)
        self.on_host = _views(self._host, begins, shapes)
        self.on_device = _views(self._device, begins, shapes)

    @property
    def num_bytes(self) -> int:
        """The size of a block."""
        return len(self._host)

    def to_device(self) -> None:
        """Begin one copy of all tensors to the device, in the current stream."""
        self._device.copy_(self._host, non_blocking=True)

    def to_host(self) -> None:
        """Begin one copy of all tensors to the host, in the current stream. They are there when the stream is done."""
        self._host.copy_(self._device, non_blocking=True)


def _views(block: Tensor, begins: Sequence[int], shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    return tuple(
        block[begin : begin + dtype.itemsize * math.prod(sizes)].view(dtype).view(sizes)
        for begin, (dtype, sizes) in zip(begins, shapes, strict=True)
    )
