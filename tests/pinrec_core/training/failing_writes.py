"""One of two processes that ``torchrun`` started. In each case a write fails in one of them.

Each process writes the error that ended the case to a file.
"""

from __future__ import annotations

import atexit
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from pinrec_core.config.sections import ObjectiveConfig, Precision, TrainingConfig, Variant
from pinrec_core.objective.objective import Objective
from pinrec_core.training import checkpoint
from pinrec_core.training.checkpoint import Position
from pinrec_core.training.metrics import Tally
from pinrec_core.training.optimizer import new_optimizers
from pinrec_core.training.processes import Processes
from tests.pinrec_core.builders import tiny_model
from tests.pinrec_core.training.small_training import train_small

CHECKPOINTS = ("write-0", "write-1", "mkdir", "rename", "remove")
"""What fails while a checkpoint is written: the file of rank 0 or 1, or a step that rank 0 takes for both."""
RUN = "run"
"""The case in which the weights of a finished training cannot be written."""
TOO_LARGE = 1024
"""The largest file, in bytes, that a process may write whose writes are to fail. All files of tensors are larger."""


def main() -> None:
    torch.set_num_threads(1)
    dataset, out = map(Path, sys.argv[1:])
    # Registered first, so that it runs last.
    atexit.register(lambda: (out / f"joined-{processes.rank}.txt").write_text(str(dist.is_initialized())))
    processes = Processes.launch(torch.device("cpu"), Precision.FP32)
    for case in CHECKPOINTS:
        error = ended_by(lambda case=case: second_checkpoint(case, out / case, processes))
        (out / f"{case}-{processes.rank}.txt").write_text(error)
    error = ended_by(lambda: finished_run(dataset, out / RUN))
    (out / f"{RUN}-{processes.rank}.txt").write_text(error)


def ended_by(work: Callable[[], None]) -> str:
    """The name and message of the error that ends ``work``."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def second_checkpoint(case: str, run: Path, processes: Processes) -> None:
    """Write two checkpoints. While the second one is written, what ``case`` says fails."""
    objective = Objective(tiny_model(Variant.OC), ObjectiveConfig(), catalogue_size=120)
    optimizers = new_optimizers(objective, TrainingConfig())
    tally = Tally.new(processes.device)

    def save(steps: int) -> None:
        checkpoint.save(run, {}, objective, optimizers, Position(steps=steps), tally, processes)

    save(1)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if case == f"write-{processes.rank}":
        resource.setrlimit(resource.RLIMIT_FSIZE, (TOO_LARGE, unlimited[1]))
    in_the_way = {"mkdir": ".building", "rename": "000000-000000000002", "remove": "000000-000000000000"}
    if case in in_the_way and processes.rank == 0:
        (run / checkpoint.FOLDER / in_the_way[case]).write_text("a file where a folder is expected")
    processes.sum(0.0)  # rank 1 waits until the file is there
    try:
        save(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def finished_run(dataset: Path, run: Path) -> None:
    """Train with a folder where the weights are to be written."""
    (run / "weights.safetensors").mkdir(parents=True, exist_ok=True)
    train_small(dataset, run, training={"epochs": 1})


if __name__ == "__main__":
    main()
