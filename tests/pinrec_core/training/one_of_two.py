"""One of two processes that ``torchrun`` started. It writes the gradients of a step and the weights of a training."""

from __future__ import annotations

import contextlib
import itertools
import sys
from pathlib import Path

import safetensors.torch
import torch

from pinrec_core.config.sections import ObjectiveConfig, Precision, TrainingConfig, Variant
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.objective.objective import Objective
from pinrec_core.training.batches import generator_of, training_batch
from pinrec_core.training.optimizer import new_optimizers
from pinrec_core.training.processes import Processes
from pinrec_core.training.sharded_tables import shard_id_tables
from tests.pinrec_core.builders import random_history, tiny_model
from tests.pinrec_core.training.small_training import train_small

USERS_PER_PROCESS = 3
STOPPED_AT = 13  # the batch at which a training is interrupted, in its second epoch


def gradients(dataset: Path, processes: Processes, users: list[int], out: Path, *, sharded: bool = False) -> None:
    """Write the gradients of one batch of ``users``, with whole ID tables or this process's rows of them.

    All histories have the same length, all targets are scored, and all processes have the same random negatives. The
    loss is therefore a plain mean over users.
    """
    objective = Objective(
        tiny_model(Variant.OC),
        ObjectiveConfig(in_batch_negatives=0, random_negatives=32, outcome_dropout=0.0),
        catalogue_size=120,
    )
    if sharded:
        shard_id_tables(objective, rank=processes.rank, count=processes.count)
    optimizers = new_optimizers(objective, TrainingConfig(learning_rate=1e-2))
    module, *_ = processes.fabric.setup(objective, *optimizers)
    histories = [random_history(9, user, queries=False) for user in users]
    batch = training_batch(histories, ItemCatalogue.open(dataset), objective.config, generator_of(0))
    processes.fabric.backward(module(batch))
    left = {name: p.grad.to_dense() for name, p in objective.named_parameters() if p.grad is not None}
    safetensors.torch.save_file(left, out)


def sharded_training(dataset: Path, out: Path) -> None:
    """As ``whole_training``, but with sharded tables, and both processes stop at the same batch and resume."""
    settings = {"accumulate_batches": 2, "batch_users": 4, "shard_id_tables": True}
    batches = itertools.count()

    def stop(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, Objective) and next(batches) == STOPPED_AT:
            raise InterruptedError

    hook = torch.nn.modules.module.register_module_forward_hook(stop)
    with contextlib.suppress(InterruptedError):
        train_small(dataset, out / "sharded", training=settings, checkpoint_seconds=0.0)
    hook.remove()
    train_small(dataset, out / "sharded", training=settings)


def whole_training(dataset: Path, out: Path, rank: int) -> None:
    seen: list[Objective] = []

    def keep(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, Objective) and not seen:
            seen.append(module)

    hook = torch.nn.modules.module.register_module_forward_hook(keep)
    train_small(dataset, out / "run", training={"accumulate_batches": 2, "batch_users": 4})
    hook.remove()
    safetensors.torch.save_file(seen[0].state_dict(), out / f"training-{rank}.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    dataset, out = map(Path, sys.argv[1:])
    processes = Processes.launch(torch.device("cpu"), Precision.FP32)
    rank = processes.rank
    users = list(range(rank * USERS_PER_PROCESS, (rank + 1) * USERS_PER_PROCESS))
    gradients(dataset, processes, users, out / f"gradients-{rank}.safetensors")
    gradients(dataset, processes, users, out / f"sharded_gradients-{rank}.safetensors", sharded=True)
    whole_training(dataset, out, rank)
    sharded_training(dataset, out)


if __name__ == "__main__":
    main()
