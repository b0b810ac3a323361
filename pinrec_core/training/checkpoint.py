"""What a killed run resumes from: ``RUN/checkpoint/<epoch>-<step>/`` with weights, optimiser and progress.

Safetensors and JSON alone. A checkpoint is filled beside its place and renamed into it, and the one before goes only
then: at any moment of a crash the newest one is complete. Every process writes what is its own (sketch, sums, shards of
the ID tables), rank 0 what all share; the processes see one file system. Random generators need no place here: see
``batches``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
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

if TYPE_CHECKING:
    from pinrec_core.training.processes import Processes

FOLDER = "checkpoint"
STATE_FILE = "state.json"
SHARED_FILE = "shared.safetensors"
SKETCH = "sketch."


@dataclass(slots=True, kw_only=True)
class Position:
    """How far a run has come; the same for every process."""

    epoch: int = 0  # the one under way, from 0
    batches: int = 0  # of it, done by each process
    steps: int = 0  # of the optimiser, in the whole run
    epochs: list[EpochMetrics] = field(default_factory=list)  # finished

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, step {self.steps:,}"


def save(
    run: Path,
    configuration: Mapping[str, Any],
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    position: Position,
    tally: Tally,
    processes: Processes,
) -> None:
    """Write a checkpoint, then remove the older ones. All processes come here at the same step.

    Raises ``StorageError`` or ``OSError`` where it cannot be written; the one before is still there then.
    """
    folder = run / FOLDER
    place = folder / f"{position.epoch:06d}-{position.steps:012d}"
    if place.is_dir():  # nothing has happened since
        return
    building = folder / ".building"
    if processes.rank == 0:
        shutil.rmtree(building, ignore_errors=True)  # of a run killed while it wrote
        building.mkdir(parents=True)
    processes.wait()
    try:
        state = objective.state_dict() | dict(_optimizer_state(objective, optimizers))
        own = {name: value for name, value in state.items() if _is_own(name, objective)} | tally.to_tensors()
        _write_tensors(own, building / _own_file(processes.rank))
        if processes.rank == 0:
            shared = {name: value for name, value in state.items() if not _is_own(name, objective)}
            _write_tensors(shared, building / SHARED_FILE)
            plain = json.dumps({"configuration": configuration, "position": asdict(position)}, indent=2)
            (building / STATE_FILE).write_text(plain + "\n", "utf-8")
            _flush(building / STATE_FILE)
    except BaseException:  # the next one may need its space
        shutil.rmtree(building, ignore_errors=True)
        raise
    processes.wait()
    if processes.rank == 0:
        older = list(_complete(folder))
        building.rename(place)
        for path in older:
            shutil.rmtree(path)


def newest(run: Path) -> Path | None:
    return max(_complete(run / FOLDER), default=None)


def position_of(checkpoint: Path) -> Position:
    """As far as the checkpoint's name tells it: nothing of it is read."""
    epoch, steps = map(int, checkpoint.name.split("-"))
    return Position(epoch=epoch, steps=steps)


def remove(run: Path) -> None:
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def load(
    checkpoint: Path,
    configuration: Mapping[str, Any],
    objective: Objective,
    optimizers: Sequence[torch.optim.Optimizer],
    processes: Processes,
) -> tuple[Position, Tally]:
    """Restore ``objective`` and ``optimizers`` in place. → how far the run had come, and this process's sums.

    Raises ``ConfigError`` when another configuration left the checkpoint, ``DataError`` when it is damaged.
    """
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text("utf-8"))
        _check_same(checkpoint.parents[1], dict(_flat(state["configuration"])), dict(_flat(configuration)))
        shared = safetensors.torch.load_file(checkpoint / SHARED_FILE)
        own = safetensors.torch.load_file(checkpoint / _own_file(processes.rank))
        tensors = shared | own
        objective.load_state_dict({name: tensors[name] for name in objective.state_dict()})
        _restore_optimizers(objective, optimizers, tensors)
        raw = state["position"]
        position = Position(**raw | {"epochs": [EpochMetrics(**epoch) for epoch in raw["epochs"]]})
        return position, Tally.from_tensors(own, processes.device)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{checkpoint}: expected a checkpoint of `pinrec train` ({reason}); --overwrite starts anew"
        ) from error


def _is_own(name: str, objective: Objective) -> bool:
    """Whether a tensor of the state differs between processes: the sketch, and shards of the ID tables."""
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
            # SparseAdam counts its steps in a Python integer, the others in a tensor of floats.
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
    """To the disk: the rename that follows must not outlive a power cut that the content does not."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
