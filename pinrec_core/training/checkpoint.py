"""What a killed run resumes from: ``RUN/checkpoint/<epoch>-<step>/`` with weights, optimiser state and progress.

A checkpoint consists of safetensors and JSON. It is written to a temporary folder and renamed when it is complete; only
then is the one before removed. Whenever a run crashes, its newest checkpoint is therefore complete. Each process writes
what it alone holds (its sketch, its sums, its shard of the ID tables), and rank 0 writes what all processes share; they
must see one file system. The state of random generators is not needed: see ``batches``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pinrec_core.errors import ConfigError, DataError
from pinrec_core.files.file_writing import save_tensors
from pinrec_core.objective.objective import Objective
from pinrec_core.training.metrics import EpochMetrics, Tally
from pinrec_core.training.run import ID_TABLES
from pinrec_core.training.sharded_tables import ShardedIdEmbedding
from pinrec_core.validation import load_json, save_json, validated

if TYPE_CHECKING:
    from pinrec_core.training.processes import Processes

FOLDER = "checkpoint"
STATE_FILE = "state.json"
SHARED_FILE = "shared.safetensors"
SKETCH = "sketch."


@dataclass(slots=True, kw_only=True)
class Position:
    """How far a run has come. It is the same in every process."""

    epoch: int = 0  # the current epoch, from 0
    batches: int = 0  # batches of this epoch that each process has done
    steps: int = 0  # steps of the optimiser in the whole run
    epochs: list[EpochMetrics] = field(default_factory=list)  # one for each finished epoch

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.steps:,}"


@validated(DataError)
class _State:
    """What ``state.json`` holds."""

    configuration: dict[str, Any]  # of the run that left the checkpoint
    position: Position


def save(
    run: Path,
    configuration: Mapping[str, Any],
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
    tally: Tally,
    processes: Processes,
) -> None:
    """Write a checkpoint, then remove the older ones. All processes must call this at the same step.

    If a process cannot write, all processes raise: that process ``StorageError`` or ``OSError`` with the reason, the
    others ``StorageError``. The unfinished checkpoint is removed then, and the newest complete one is still there.
    """
    folder = run / FOLDER
    place = folder / f"{position.epoch:06d}-{position.steps:012d}"
    if place.is_dir():  # the run has not moved since this checkpoint
        return
    building = folder / ".building"
    try:
        with processes.writing_together(building):
            if processes.rank == 0:
                shutil.rmtree(building, ignore_errors=True)  # left by a run that was killed while it wrote
                building.mkdir(parents=True)
        with processes.writing_together(building):
            _write(building, configuration, objective, optimizers, position, tally, processes.rank)
        with processes.writing_together(place):
            if processes.rank == 0:
                older = list(_complete(folder))
                building.rename(place)
                for path in older:
                    shutil.rmtree(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)  # the next checkpoint may need its space
        raise


def _write(
    building: Path,
    configuration: Mapping[str, Any],
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
    tally: Tally,
    rank: int,
) -> None:
    """Write this process's part of a checkpoint; rank 0 also writes what all processes share."""
    state = objective.state_dict() | dict(_optimizer_state(objective, optimizers))
    own = {name: value for name, value in state.items() if _is_own(name, objective)} | tally.to_tensors()
    _write_tensors(own, building / _own_file(rank))
    if rank == 0:
        shared = {name: value for name, value in state.items() if not _is_own(name, objective)}
        _write_tensors(shared, building / SHARED_FILE)
        save_json(_State(configuration=dict(configuration), position=position), building / STATE_FILE)
        _flush(building / STATE_FILE)


def newest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    return max(_complete(run / FOLDER), default=None)


def position_of(checkpoint: Path) -> Position:
    """The epoch and step of a checkpoint, from its name alone: nothing in it is read."""
    epoch, steps = map(int, checkpoint.name.split("-"))
    return Position(epoch=epoch, steps=steps)


def remove(run: Path) -> None:
    """Remove all checkpoints of a run."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def load(
    checkpoint: Path,
    configuration: Mapping[str, Any],
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    processes: Processes,
) -> tuple[Position, Tally]:
    """Restore ``objective`` and ``optimizers`` in place → how far the run had come, and this process's sums.

    Raises ``ConfigError`` when the checkpoint is of another configuration, ``DataError`` when it is damaged.
    """
    try:
        state = load_json(_State, checkpoint / STATE_FILE, error=DataError, what="the state of a training")
        _check_same(checkpoint.parents[1], dict(_flat(state.configuration)), dict(_flat(configuration)))
        shared = safetensors.torch.load_file(checkpoint / SHARED_FILE)
        own = safetensors.torch.load_file(checkpoint / _own_file(processes.rank))
        tensors = shared | own
        objective.load_state_dict({name: tensors[name] for name in objective.state_dict()})
        _restore_optimizers(objective, optimizers, tensors)
        return state.position, Tally.from_tensors(own, processes.device)
    except (DataError, OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{checkpoint}: expected a checkpoint of `pinrec train` ({reason}); --overwrite starts anew"
        ) from error


def _is_own(name: str, objective: Objective) -> bool:
    """Whether a tensor of the state differs between processes, as the sketch and shards of the ID tables do."""
    sharded = isinstance(objective.model.id_embedding, ShardedIdEmbedding)
    return name.startswith(SKETCH) or (sharded and name.endswith(ID_TABLES))


def _check_same(run: Path, left: dict[str, Any], given: dict[str, Any]) -> None:
    differing = [name for name in sorted(left.keys() | given.keys()) if left.get(name) != given.get(name)]
    if differing:
        got = ", ".join(f"{name}={given.get(name)!r}" for name in differing)
        expected = ", ".join(repr(left.get(name)) for name in differing)
        raise ConfigError(f"{got}: expected {expected}, as the unfinished run in {run} has; --overwrite starts anew")


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _optimizer_state(objective: Objective, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in objective.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                yield f"optimizer/{key}/{name}", torch.as_tensor(value)


def _restore_optimizers(
    objective: Objective, optimizers: Sequence[torch.optim.Optimizer], saved: dict[str, Tensor]
) -> None:
    parameters = dict(objective.named_parameters())
    owner = {p: optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for entry, value in saved.items():
        if entry.startswith("optimizer/"):
            _, key, name = entry.split("/")
            parameter = parameters[name]
            # SparseAdam counts its steps in a Python integer, the other optimisers in a tensor of floats.
            whole = value.ndim == 0 and not value.is_floating_point()
            owner[parameter].state[parameter][key] = int(value) if whole else value.to(parameter.device)


def _complete(folder: Path) -> Iterator[Path]:
    return folder.glob("[0-9]*-[0-9]*")


def _own_file(rank: int) -> str:
    return f"rank-{rank}.safetensors"


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_tensors(tensors, path)
    _flush(path)


def _flush(path: Path) -> None:
    """Force the content to the disk. Otherwise, after a power cut, the folder could be renamed but its files empty."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
