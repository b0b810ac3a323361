"""A training run from its configurations to its folder: refuses everything that cannot work, then runs the loop.

A refused training leaves the folder's earlier run untouched. Only one command at a time trains in a folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pinrec_core.config.sections import ModelConfig, ObjectiveConfig, TrainingConfig
from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import SEQUENCES, DatasetManifest
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.files.folder_lock import locked
from pinrec_core.files.held_folder import holding
from pinrec_core.model.device import torch_device, within_memory
from pinrec_core.model.variants import trainable_model
from pinrec_core.objective.objective import Objective
from pinrec_core.training import checkpoint
from pinrec_core.training.curves import curves
from pinrec_core.training.loop import TrainingLoop
from pinrec_core.training.metrics import Progress, Tally
from pinrec_core.training.optimizer import new_optimizers
from pinrec_core.training.run import RUN_FILE, Run, clear, load_id_tables, make_writable
from pinrec_core.training.sharded_tables import ShardedIdEmbedding, shard_id_tables
from pinrec_core.training.stop_signals import stop_signals
from pinrec_core.validation import to_plain

if TYPE_CHECKING:
    from pinrec_core.training.processes import Processes

CHECKPOINT_SECONDS = 300.0
REPORT_SECONDS = 0.1


def train(
    dataset: Path,
    folder: Path,
    *,
    model_config: ModelConfig,
    objective_config: ObjectiveConfig,
    training_config: TrainingConfig,
    device: str = "cpu",
    id_tables: Path | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    tensorboard: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    report_seconds: float = REPORT_SECONDS,
    announce: Callable[[str], None] = lambda _: None,
) -> Run:
    """Train on the users that are not held out, and write ``folder``.

    An unfinished run of the same configuration in ``folder`` is resumed. On one thread it ends with exactly the weights
    of an uninterrupted run. ``id_tables`` is the folder of an ID pre-training whose tables the model starts from.
    Rank 0 alone calls ``report``, every ``report_seconds`` (0: after every step). ``announce`` is told when an
    unfinished run is resumed or discarded.

    Raises ``DataError`` when no user has an interaction with an outcome to train on, or when the model was made for
    another dataset. Raises ``ConfigError`` for a device that this machine lacks; for a ``folder`` that cannot be
    written, in which another process trains, or that holds a finished run or one of another configuration (unless
    ``overwrite``); for ID tables that do not fit or were trained on what is held out here; for sizes beyond the
    machine's memory; and for a loss that is no longer finite. Raises ``StorageError`` or ``OSError`` when the run or a
    checkpoint cannot be written. Raises ``StoppedError`` after SIGINT or SIGTERM, once it has written the checkpoint
    that the run resumes from.
    """
    target_device = torch_device(device)
    catalogue = ItemCatalogue.open(dataset)
    sequences = (dataset / SEQUENCES).resolve()  # one snapshot to the end, whatever is published meanwhile
    info = BatchInfo.load(sequences)
    manifest = DatasetManifest.load(dataset)
    _check_manifest(manifest, info)
    manifest.check_model(model_config)
    if id_tables is not None and id_tables.resolve() == folder.resolve():
        raise ConfigError(f"id_tables={str(id_tables)!r}: expected another folder than out, which the run replaces")
    make_writable(folder)

    # Imported here, because lightning-fabric takes as long to import as torch, and serving reads runs without training.
    from pinrec_core.training.processes import Processes, is_first_process

    sizes = _sizes(model_config, objective_config, training_config)
    refusal = f"out={str(folder)!r}: expected no other process to train in it"
    with (
        locked(folder, refusal=refusal) if is_first_process() else nullcontext(),
        _kept(sequences.parent),
        within_memory(**sizes),
    ):
        if (folder / RUN_FILE).is_file() and not overwrite:
            raise ConfigError(f"out={str(folder)!r}: expected no finished run; --overwrite replaces it")
        processes = Processes.launch(target_device, training_config.precision)
        torch.manual_seed(training_config.seed)
        model = trainable_model(model_config)
        if id_tables is not None:
            load_id_tables(model, id_tables, training_config, manifest.identity)
        objective = Objective(model, objective_config, catalogue_size=len(catalogue))
        _place_id_tables(objective, training_config, processes)
        optimizers = new_optimizers(objective, training_config)
        module, *_ = processes.fabric.setup(objective, *optimizers)
        configuration = {
            "dataset": str(dataset.resolve()),
            "sequences": dataclasses.asdict(info),
            "model": to_plain(model_config),
            "objective": to_plain(objective_config),
            "training": to_plain(training_config),
            "id_tables": None if id_tables is None else str(id_tables.resolve()),
            "processes": processes.count,
        }
        loop = TrainingLoop(
            processes=processes, catalogue=catalogue, sequences=sequences, num_users=info.num_users,
            config=training_config, configuration=json.loads(json.dumps(configuration)), folder=folder,
            overwrite=overwrite, objective=objective, module=module, optimizers=optimizers,
            tally=Tally.new(processes.device), report=report, report_seconds=report_seconds,
            checkpoint_seconds=checkpoint_seconds,
        )  # fmt: skip
        loop.check_targets()
        if not overwrite:
            loop.resume(announce)
        with (
            curves(tensorboard if processes.rank == 0 else None, first_step=loop.position.steps + 1) as plot,
            stop_signals(second_ends=processes.count == 1) as stop,
        ):
            with processes.writing_together(folder):
                if overwrite and processes.rank == 0:  # only here, where everything that can be refused has been
                    _discard(folder, announce)
            loop.run_epochs(plot, stop)

        run = Run(
            folder=folder, dataset=dataset, identity=manifest.identity, model=model_config, objective=objective_config,
            training=training_config, id_tables=id_tables, metrics=loop.metrics(),
        )  # fmt: skip
        if isinstance(model.id_embedding, ShardedIdEmbedding):
            model.id_embedding = model.id_embedding.whole()
        with processes.writing_together(folder):
            if processes.rank == 0:
                run.save(objective)
                checkpoint.remove(folder)
        return run


def _place_id_tables(objective: Objective, training: TrainingConfig, processes: Processes) -> None:
    """Split the rows of the ID tables over the processes, or leave a copy of all rows in each."""
    if training.shard_id_tables and processes.count > 1:
        shard_id_tables(objective, rank=processes.rank, count=processes.count)
    else:  # DDP must sum the copies' gradients over the processes, and NCCL cannot sum sparse ones
        sparse = processes.count == 1 or processes.device.type == "cpu"
        objective.model.id_embedding.tables.sparse = sparse


def _discard(folder: Path, announce: Callable[[str], None]) -> None:
    """Remove the run in ``folder``, finished or not."""
    unfinished = checkpoint.newest(folder)
    if unfinished is not None:
        announce(f"discarding the unfinished run in {folder}: {checkpoint.position_of(unfinished)}")
    clear(folder)
    checkpoint.remove(folder)


def _sizes(model: ModelConfig, objective: ObjectiveConfig, training: TrainingConfig) -> dict[str, int]:
    """The settings that decide how much memory a training takes."""
    of_model = ("layers", "hidden_width", "id_width", "id_rows", "max_history", "max_offset")
    of_objective = ("sketch_width", "windows_per_step", "in_batch_negatives", "random_negatives")
    return (
        {name: getattr(model, name) for name in of_model}
        | {name: getattr(objective, name) for name in of_objective}
        | {"batch_users": training.batch_users}
    )


@contextmanager
def _kept(snapshot: Path) -> Iterator[None]:
    """Hold the snapshot that is trained on, so that `pinrec signals prune` leaves it alone.

    Where the file system knows no locks, nothing is held, and whoever prunes has to know what is trained on.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(holding(snapshot))
        yield


def _check_manifest(manifest: DatasetManifest, info: BatchInfo) -> None:
    if (info.feature_space, tuple(info.outcomes), tuple(info.surfaces)) != (
        manifest.feature_space, manifest.outcomes, manifest.surfaces,
    ):  # fmt: skip
        raise DataError("signals/sequences are of another preparation of the dataset: run `pinrec prepare` again")
