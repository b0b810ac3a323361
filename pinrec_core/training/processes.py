"""Device, precision and processes of one run, by lightning-fabric.

One process, or the data-parallel processes that ``torchrun`` started: each has the whole model and its share of the
users. Knows nothing of what is trained.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from pinrec_core.config.sections import Precision
from pinrec_core.errors import ConfigError


class _Autocast(MixedPrecision):
    """Fabric's own would round every input to BF16, the scales of the content vectors among them."""

    def convert_input(self, data: Any) -> Any:
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among ``count`` of them; ``rank`` 0 prints and writes."""

    fabric: Fabric
    rank: int
    count: int
    control: Any  # a process group on the CPU: what it exchanges never waits for the accelerator

    @staticmethod
    def launch(device: torch.device, precision: Precision) -> Processes:
        """Join the other processes, if ``torchrun`` started any. Raises ``ConfigError`` for a numbered device there."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if count > 1 and device.index is not None:
            raise ConfigError(f"device={str(device)!r}: expected {device.type!r} under torchrun, which numbers them")
        fabric = Fabric(
            accelerator=device.type,
            devices=local if count > 1 else 1 if device.index is None else [device.index],
            num_nodes=count // local,
            # Every process counts its own share of the stream: the sketch, a buffer, is not copied from rank 0.
            strategy=DDPStrategy(forward_sync_buffers=False) if count > 1 else "auto",
            plugins=_Autocast("bf16-mixed", device.type) if precision is Precision.BF16 else None,
        )
        fabric.launch()
        control = torch.distributed.new_group(backend="gloo") if count > 1 else None
        return Processes(fabric=fabric, rank=fabric.global_rank, count=count, control=control)

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    def sum(self, *values: float) -> list[float]:
        return self._reduced(values, torch.distributed.ReduceOp.SUM)

    def minimum(self, *values: float) -> list[float]:
        return self._reduced(values, torch.distributed.ReduceOp.MIN)

    def wait(self) -> None:
        """Until every process has come here."""
        self.sum(0.0)

    def _reduced(self, values: tuple[float, ...], how: Any) -> list[float]:
        together: Tensor = torch.tensor(values, dtype=torch.float64)
        if self.control is not None:
            torch.distributed.all_reduce(together, op=how, group=self.control)
        return together.tolist()


def is_first_process() -> bool:
    """Whether this process is the only one or rank 0 of ``torchrun``'s, told before they have joined."""
    return os.environ.get("RANK", "0") == "0"
