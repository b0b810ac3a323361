"""The training loop of one process: epochs, steps, reports, and when a checkpoint is due.

This module decides the order of the phases. Its neighbours know how batches are made, how the optimiser is set up and
what a checkpoint contains.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pinrec_core.config.sections import TrainingConfig
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.errors import ConfigError, DataError, StoppedError
from pinrec_core.history import History
from pinrec_core.objective.objective import Objective
from pinrec_core.training import checkpoint
from pinrec_core.training.batches import (
    PreparedBatch,
    epoch_batches,
    has_targets,
    held_out_histories,
    prefetch,
    prepare,
)
from pinrec_core.training.checkpoint import Position
from pinrec_core.training.curves import Curves
from pinrec_core.training.metrics import EpochMetrics, Progress, Tally
from pinrec_core.training.optimizer import network_parameters, schedule
from pinrec_core.training.stop_signals import Stop
from pinrec_core.training.throughput import Throughput, measured_peak, training_flops
from pinrec_core.training.validation import held_out_loss

if TYPE_CHECKING:
    from lightning_fabric.wrappers import _FabricModule

    from pinrec_core.training.processes import Processes

PREFETCHED_BATCHES = 2
"""Batches that a thread prepares while the device works. For a GPU, reading and padding take as long as the step."""


@dataclass(slots=True, kw_only=True)
class TrainingLoop:
    """One process's training: the data and the model, how far the run has come, and who is told about it."""

    processes: Processes
    catalogue: ItemCatalogue
    sequences: Path
    num_users: int
    config: TrainingConfig
    configuration: dict[str, Any]  # must equal that of the checkpoint which a run resumes from
    folder: Path
    overwrite: bool
    objective: Objective
    module: _FabricModule  # the objective, wrapped by Fabric for autocast and, with several processes, for DDP
    optimizers: list[torch.optim.Optimizer]
    tally: Tally
    report: Callable[[Progress], None]
    report_seconds: float
    checkpoint_seconds: float
    position: Position = field(default_factory=Position)
    throughput: Throughput = field(default_factory=Throughput)
    peak: float = 0.0  # FLOP/s: the highest rate measured so far on this process's device
    last_report: float = -math.inf
    last_save: float = field(default_factory=time.perf_counter)
    step_started: float = 0.0

    def resume(self, announce: Callable[[str], None]) -> None:
        """Restore the newest checkpoint of the run's folder, if there is one."""
        found = checkpoint.newest(self.folder)
        if found is not None:
            self.position, self.tally = checkpoint.load(
                found, self.configuration, self.objective, self.optimizers, self.processes
            )
            announce(f"resuming the unfinished run in {self.folder}: {self.position}")

    def check_targets(self) -> None:
        """Raises ``DataError``, in all processes, if any of them would have nothing to learn from."""
        config, processes = self.config, self.processes
        found = has_targets(self.sequences, config, process=processes.rank, num_processes=processes.count)
        (all_found,) = processes.minimum(found)
        if not all_found:
            raise DataError(
                f"{self.sequences}: there is nothing to learn from: expected, for each of {processes.count} processes, "
                f"an interaction with an outcome that evaluation_share={config.evaluation_share} and "
                f"held_out_last={config.held_out_last} leave to train on"
            )

    def run_epochs(self, plot: Curves, stop: Stop) -> None:
        """Train until the last epoch is done. Raises ``StoppedError`` when a stop was requested, after a checkpoint."""
        held_out: list[History] = []
        # Rank 0 validates for all. Sharded tables, however, are looked up by all processes together.
        if self.processes.rank == 0 or self.config.shard_id_tables:
            held_out = held_out_histories(self.sequences, self.objective.model.config, self.config)
        self.module.train()
        while self.position.epoch < self.config.epochs:
            self._train_epoch(plot, stop)
            self._end_epoch(held_out, plot)
            if self.position.epoch < self.config.epochs:
                self._save()

    def metrics(self) -> dict[str, Any]:
        """The figures of a finished run, for its ``run.json``."""
        (interactions,) = self.processes.sum(self.tally.run_interactions)
        return {
            "final_loss": self._loss(),
            "steps": self.position.steps,
            "interactions": int(interactions),
            "epochs": [dataclasses.asdict(epoch) for epoch in self.position.epochs],
        }

    def _train_epoch(self, plot: Curves, stop: Stop) -> None:
        # Measured again for every epoch, because other programs may have slowed down the measurements before.
        self.peak = max(self.peak, measured_peak(self.processes.device, self.config.precision))
        self.step_started = time.perf_counter()
        with closing(prefetch(self._remaining_batches(), PREFETCHED_BATCHES)) as batches:
            while True:
                group = list(islice(batches, self.config.accumulate_batches))
                count, share, due, stopped = self._agree(group, stop)
                if not count:
                    return
                if due or stopped:
                    self._save()
                if stopped:
                    command = "the same command without --overwrite" if self.overwrite else "the same command"
                    raise StoppedError(f"interrupted; {command} goes on from {self.position}")
                self._step(group[:count], (self.position.epoch + share) / self.config.epochs, plot)

    def _remaining_batches(self) -> Iterator[PreparedBatch]:
        """This process's batches of the current epoch. A resumed run skips those that it has done before they become
        tensors."""
        epoch, rank = self.position.epoch, self.processes.rank
        draws = epoch_batches(
            self.sequences, self.objective.model.config, self.config, num_users=self.num_users, epoch=epoch,
            process=rank, num_processes=self.processes.count,
        )  # fmt: skip
        for draw in islice(draws, self.position.batches, None):
            yield prepare(draw, self.catalogue, self.objective.config, self.config.seed, rank, epoch, draw.batch)

    def _agree(self, group: list[PreparedBatch], stop: Stop) -> tuple[int, float, bool, bool]:
        """Agree with the other processes on the next step.

        → the number of batches that each process trains on (0 ends the epoch, once any process has none left), the
        share of the epoch that sets the learning rate, whether a checkpoint is due, and whether to stop.
        """
        due = time.perf_counter() - self.last_save >= self.checkpoint_seconds
        count, share, not_due, not_stopped = self.processes.minimum(
            len(group), group[-1].share if group else 0.0, not due, not stop.requested
        )
        return int(count), share, not not_due, not not_stopped

    def _step(self, group: list[PreparedBatch], share: float, plot: Curves) -> None:
        """One step of the optimiser, on the mean gradient of the group's batches in all processes."""
        fabric, config = self.processes.fabric, self.config
        schedule(self.optimizers, share, config.warmup_share)
        interactions, flops = 0, 0.0
        for prepared in group:
            torch.manual_seed(prepared.torch_seed)
            with fabric.no_backward_sync(self.module, enabled=prepared is not group[-1]):
                loss = self.module(prepared.batch.to(self.processes.device))
                fabric.backward(loss / len(group))
            seen = sum(prepared.lengths)
            work = training_flops(self.objective.model.config, prepared.lengths, self.objective.scored)
            self.tally.add(loss, interactions=seen, flops=work)
            interactions, flops = interactions + seen, flops + work
        nn.utils.clip_grad_norm_(network_parameters(self.objective), config.gradient_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.objective.cap_temperature()
        self.position.steps += 1
        self.position.batches += len(group)

        told = time.perf_counter() - self.last_report >= self.report_seconds
        loss_now = self._loss() if told else math.nan
        now = time.perf_counter()
        self.throughput.add(now - self.step_started, interactions, flops)
        self.tally.seconds += now - self.step_started
        self.step_started = now
        if told:
            self.last_report = now
            self._tell(share, loss_now, plot)

    def _tell(self, share: float, loss: float, plot: Curves) -> None:
        """Report recent figures, at the point ``share`` in [0, 1] of the whole run."""
        rate = self.throughput.interactions_per_second * self.processes.count
        mfu = self.throughput.flops_per_second / self.peak
        if self.processes.rank == 0:
            plot.step(self.position.steps, loss=loss, interactions_per_second=rate, mfu=mfu)
            self.report(
                Progress(
                    epoch=min(self.position.epoch, self.config.epochs - 1),
                    share=share,
                    loss=loss,
                    interactions_per_second=rate,
                    mfu=mfu,
                    epochs=tuple(self.position.epochs),
                )
            )

    def _end_epoch(self, held_out: list[History], plot: Curves) -> None:
        """Sum the figures over all processes, validate, and turn to the next epoch."""
        tally = self.tally
        mean_of_own = self._loss(tally.loss / tally.batches)
        loss, batches, interactions, flops, peak = self.processes.sum(
            mean_of_own * tally.batches, tally.batches, tally.interactions, tally.flops, self.peak
        )
        self.position.epochs.append(
            EpochMetrics(
                epoch=self.position.epoch + 1,
                loss=loss / batches,
                held_out_loss=held_out_loss(
                    self.objective, held_out, self.catalogue, self.config, self.processes.fabric
                ),
                seconds=tally.seconds,
                interactions_per_second=interactions / tally.seconds,
                mfu=flops / tally.seconds / peak,
            )
        )
        self.position.epoch += 1
        self.position.batches = 0
        tally.next_epoch()
        if self.processes.rank == 0:
            plot.epoch(self.position.steps, self.position.epochs[-1])
        self._tell(self.position.epoch / self.config.epochs, self._loss(), plot)

    def _save(self) -> None:
        self._loss()  # a run must not resume from weights that are no longer finite
        checkpoint.save(
            self.folder, self.configuration, self.objective, self.optimizers, self.position, self.tally, self.processes
        )
        self.last_save = self.step_started = time.perf_counter()

    def _loss(self, loss: torch.Tensor | None = None) -> float:
        """Read a loss (by default the recent one) from the device. Raises ``ConfigError`` when it is not finite."""
        value, config = float(self.tally.recent_loss if loss is None else loss), self.config
        if not math.isfinite(value):
            raise ConfigError(
                f"learning_rate={config.learning_rate}, id_learning_rate={config.id_learning_rate}, "
                f"weight_decay={config.weight_decay}: expected values at which the loss stays finite, "
                f"it is {value} at step {self.position.steps:,}"
            )
        return value
