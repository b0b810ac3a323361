"""What is measured while a run trains: the figures of an epoch, the progress of the run, and the sums behind both."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """One epoch over all processes. ``seconds`` leaves out pauses for checkpoints and validation."""

    epoch: int  # from 1
    loss: float  # mean over the epoch's batches
    held_out_loss: float | None  # on users held out for validation; None where there are none
    seconds: float
    interactions_per_second: float
    mfu: float  # model FLOPs utilisation: a share of the highest FLOP/s measured so far


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the caller is told while a run trains. Rates are those of all processes in recent steps."""

    epoch: int  # the current one, from 0
    share: float  # of the whole run, in [0, 1]
    loss: float  # moving average over the recent batches
    interactions_per_second: float
    mfu: float  # model FLOPs utilisation
    epochs: tuple[EpochMetrics, ...]  # the finished ones


@dataclass(slots=True, kw_only=True)
class Tally:
    """Sums over the batches that this process has trained on.

    The two losses stay on the device. Reading them makes the host wait for it, so they are read for reports only. All
    sums but ``recent_loss`` and ``run_interactions`` start again with every epoch.
    """

    loss: Tensor  # float64 [], summed over the epoch's batches
    recent_loss: Tensor  # float64 [], moving average over the run's batches
    batches: int = 0
    interactions: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    run_interactions: int = 0  # of the whole run

    @staticmethod
    def new(device: torch.device) -> Tally:
        loss, recent_loss = torch.zeros(2, dtype=torch.float64, device=device).unbind()
        return Tally(loss=loss, recent_loss=recent_loss)

    def add(self, loss: Tensor, *, interactions: int, flops: float) -> None:
        loss = loss.detach().double()
        self.loss = self.loss + loss
        self.recent_loss = self.recent_loss.lerp(loss, 0.05) if self.run_interactions else loss
        self.batches += 1
        self.interactions += interactions
        self.run_interactions += interactions
        self.flops += flops

    def next_epoch(self) -> None:
        """Reset the sums of one epoch."""
        self.loss = torch.zeros_like(self.loss)
        self.batches = self.interactions = 0
        self.flops = self.seconds = 0.0

    def to_tensors(self) -> dict[str, Tensor]:
        """The sums as float64 scalars on the CPU, for a checkpoint."""
        return {f.name: torch.as_tensor(getattr(self, f.name), dtype=torch.float64).cpu().clone() for f in fields(self)}

    @staticmethod
    def from_tensors(tensors: dict[str, Tensor], device: torch.device) -> Tally:
        value = {f.name: tensors[f.name] for f in fields(Tally)}
        return Tally(
            loss=value["loss"].to(device),
            recent_loss=value["recent_loss"].to(device),
            batches=int(value["batches"]),
            interactions=int(value["interactions"]),
            flops=float(value["flops"]),
            seconds=float(value["seconds"]),
            run_interactions=int(value["run_interactions"]),
        )
