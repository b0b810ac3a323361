"""Device, precision and processes of one run, on top of lightning-fabric.

A run has one process, or the data-parallel processes that ``torchrun`` started. Each of them holds the whole model and
trains on its share of the users. This module does not know what is trained.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from pinrec_core.config.sections import Precision
from pinrec_core.errors import ConfigError, StorageError


class _Autocast(MixedPrecision):
    """Autocast that leaves inputs alone. Fabric's own rounds them to BF16, including the scales of content vectors."""

    def convert_input(self, data: Any) -> Any:
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among ``count`` processes. The process of ``rank`` 0 prints, and writes what all share."""

    fabric: Fabric
    rank: int
    count: int
    control: Any  # a process group on the CPU, whose exchanges never wait for the accelerator; None for one process

    @staticmethod
    def launch(device: torch.device, precision: Precision) -> Processes:
        """Join the other processes, if ``torchrun`` started any.

        Raises ``ConfigError`` for a numbered device under ``torchrun``, which gives each process its own number.
        """
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if count > 1 and device.index is not None:
            raise ConfigError(f"device={str(device)!r}: expected {device.type!r} under torchrun, which numbers them")
        fabric = Fabric(
            accelerator=device.type,
            devices=local if count > 1 else 1 if device.index is None else [device.index],
            num_nodes=count // local,
            # The sketch is a buffer in which each process counts its own share of the stream. DDP must not overwrite
            # it with that of rank 0.
            strategy=DDPStrategy(forward_sync_buffers=False) if count > 1 else "auto",
            plugins=_Autocast("bf16-mixed", device.type) if precision is Precision.BF16 else None,
        )
        fabric.launch()
        if count > 1:
            atexit.register(_leave)
        control = torch.distributed.new_group(backend="gloo") if count > 1 else None
        return Processes(fabric=fabric, rank=fabric.global_rank, count=count, control=control)

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def sum(self, *values: float) -> list[float]:
        return self._reduced(values, torch.distributed.ReduceOp.SUM)

    def minimum(self, *values: float) -> list[float]:
        return self._reduced(values, torch.distributed.ReduceOp.MIN)

    @contextmanager
    def writing_together(self, path: Path) -> Iterator[None]:
        """Run the block in all processes, and leave it with an error in all of them if it failed in any.

        A process whose own block failed raises its own error. The others raise ``StorageError``, which names ``path``
        and the first process that failed. Nobody leaves before everybody has finished writing.
        """
        failed = True
        try:
            yield
            failed = False
        finally:
            (first_failed,) = self.minimum(self.rank if failed else self.count)
        if first_failed < self.count:
            raise StorageError(f"{path}: cannot be written (process {int(first_failed)} failed, and says why)")

    def _reduced(self, values: tuple[float, ...], how: Any) -> list[float]:
        together: Tensor = torch.tensor(values, dtype=torch.float64)
        if self.control is not None:
            torch.distributed.all_reduce(together, op=how, group=self.control)
        return together.tolist()


def _leave() -> None:
    """Leave the other processes while the interpreter is whole.

    Threads of gloo that are still there when it is torn down may release a tensor then, which aborts the process.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_first_process() -> bool:
    """Whether this process is the only one or rank 0. It can be asked before the processes have joined."""
    return os.environ.get("RANK", "0") == "0"
