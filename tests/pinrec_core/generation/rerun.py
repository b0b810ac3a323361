"""A recorder that needs no GPU, and a guard against what an accelerator would have to wait for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pinrec_core.generation.static_buffers import StaticBuffers

HOST_READS = ("item", "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "lift_fresh")
"""Operators whose result, or its shape, depends on data, so that the host would have to read them; and the one that
makes a tensor of Python's numbers, which the host would have to copy to the device."""


def reads_host(operator: str) -> bool:
    """Whether an operator, such as ``aten.item.default``, is one of those."""
    return any(f".{name}." in f".{operator.removesuffix('_')}." for name in HOST_READS)


class NoHostReads(TorchDispatchMode):
    """Within it every operator that involves the host is an error."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # An index of flags gives as many elements as are set.
        indices = args[1] if str(func).startswith("aten.index.") else ()
        flags = any(isinstance(index, Tensor) and index.dtype is torch.bool for index in indices)
        if flags or reads_host(str(func)):
            raise AssertionError(f"{func}: the host would have to wait for the device, or to copy to it")
        return func(*args, **(kwargs or {}))


class Rerun:
    """Runs the program again each time, from and to the same static buffers, as a CUDA graph would."""

    device = torch.device("cpu")

    def __init__(self, run: Callable[..., tuple[Tensor, ...]] | None = None) -> None:
        """``run`` replaces the program, where a recorded program that differs from it is wanted."""
        self._run = run

    def record(
        self, program: Callable[..., tuple[Tensor, ...]], inputs: StaticBuffers, outputs: StaticBuffers
    ) -> Callable[[], None]:
        run = self._run or program

        @torch.no_grad()
        def replay() -> None:
            inputs.to_device()
            with NoHostReads():
                made = run(*inputs.on_device)
            for into, values in zip(outputs.on_device, made, strict=True):
                into.copy_(values)
            outputs.to_host()

        return replay

    def memory(self) -> int:
        return 0
