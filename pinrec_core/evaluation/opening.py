"""Opening what is to be judged: a training run, a release or a counting baseline. And the task for all of them.

A run is indexed and calibrated when it is opened, a release is taken as it was frozen, and a baseline counts what the
models were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pinrec_core.baselines.co_occurrence import CoOccurrence
from pinrec_core.baselines.popularity import Popularity, PopularityBySurface
from pinrec_core.config.sections import TrainingConfig
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.protocol import EvaluationTask, Protocol
from pinrec_core.evaluation.subjects import ListSubject, ModelSubject, Subject
from pinrec_core.generation.defaults import (
    default_budget,
    default_compression_target,
    default_generation,
    with_embeddings,
)
from pinrec_core.release.calibration import KnownRequest, check_later_dataset, index_run, reindex
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import MANIFEST_FILE, CalibratedOn, HeldOut
from pinrec_core.representations.id_tables import RowFormat
from pinrec_core.training.run import Run

BASELINES = {fit.name: fit for fit in (Popularity, PopularityBySurface, CoOccurrence)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a training kept out of its dataset."""

    dataset: Path | None  # None: a release does not know its own
    held_out: HeldOut


def task_for_subjects(
    subjects: Sequence[str],
    *,
    dataset: Path | None = None,
    protocol: Protocol = Protocol.HELD_OUT,
    targets: int = 8,
    max_users: int | None = None,
) -> EvaluationTask:
    """The task at which all ``subjects`` can be judged: users that none of them was trained on.

    Raises ``ConfigError`` where no dataset is known, several are, or a training saw the item that is left out.
    """
    splits = {name: split_of(name) for name in subjects if name not in BASELINES}
    known = {split.dataset.resolve() for split in splits.values() if split.dataset is not None}
    if dataset is None and len(known) != 1:
        what = "were trained on several" if known else "do not name one"
        raise ConfigError(f"--dataset: expected the prepared dataset to judge on; {list(subjects)} {what}")
    held_out = {name: split.held_out for name, split in splits.items()}
    for name, kept in held_out.items():
        _check_something_is_held_out(name, kept, protocol)
    folder = dataset or known.pop()
    return EvaluationTask(
        dataset=folder,
        manifest=DatasetManifest.load(folder),
        protocol=protocol,
        # Held-out users are chosen by hash, so those of the smallest share are held out of all.
        evaluation_share=min(
            (kept.evaluation_share for kept in held_out.values()),
            default=0.0 if protocol.left_out else TrainingConfig().evaluation_share,
        ),
        held_out_last=max((kept.held_out_last for kept in held_out.values()), default=protocol.left_out),
        targets=targets,
        max_users=max_users,
    )


def task_for_release(
    held_out: HeldOut, dataset: Path, *, targets: int = 8, max_users: int | None = None
) -> EvaluationTask:
    """The task at which a release is judged whose training kept ``held_out`` out of the users of ``dataset``: users
    held out or, where it was trained on all of them, the last item of each. ``judge`` refuses where training saw that
    too. Users whom a later dataset has besides are held out by the same hash."""
    return EvaluationTask(
        dataset=dataset,
        manifest=DatasetManifest.load(dataset),
        protocol=Protocol.HELD_OUT if held_out.evaluation_share else Protocol.LEAVE_ONE_OUT,
        evaluation_share=held_out.evaluation_share,
        held_out_last=held_out.held_out_last,
        targets=targets,
        max_users=max_users,
    )


def split_of(subject: str) -> Split:
    """What a run or a release says of its training. Raises ``DataError`` for a folder that is neither."""
    folder = Path(subject)
    if not folder.exists():
        raise DataError(f"{subject}: expected the folder of a run or release, or one of {sorted(BASELINES)}")
    if (folder / MANIFEST_FILE).is_file():
        return Split(dataset=None, held_out=Release.open(folder).manifest.training)
    run = Run.load(folder)
    return Split(dataset=run.dataset, held_out=held_out_of(run))


def held_out_of(run: Run) -> HeldOut:
    return HeldOut(evaluation_share=run.training.evaluation_share, held_out_last=run.training.held_out_last)


def open_subject(
    name: str,
    task: EvaluationTask,
    *,
    embeddings: int | None = None,
    offsets: Sequence[int] | None = None,
    device: str = "cpu",
) -> Subject:
    """A run's or release's folder, or the name of a baseline. ``embeddings`` and ``offsets``: see ``with_embeddings``.

    Raises ``DataError`` for a folder that is neither or that does not fit the dataset.
    """
    if name in BASELINES:
        catalogue = ItemCatalogue.open(task.dataset)
        return ListSubject(BASELINES[name].fit(task.training_histories(), catalogue), catalogue)
    if (Path(name) / MANIFEST_FILE).is_file():
        release = Release.open(Path(name))
        _check_release(release, task)
        indexed = IndexedModel.from_release(release, device)
        generation = with_embeddings(indexed.generation, indexed.model.config, embeddings=embeddings, offsets=offsets)
        return ModelSubject(name, replace(indexed, generation=generation))
    return open_run(name, task, embeddings=embeddings, offsets=offsets, device=device)


def open_run(
    name: str,
    task: EvaluationTask,
    *,
    embeddings: int | None = None,
    offsets: Sequence[int] | None = None,
    device: str = "cpu",
    id_rows: RowFormat = RowFormat.FP16,
    report: Callable[[str], None] = lambda _: None,
) -> ModelSubject:
    """A run, indexed, and calibrated on users of its dataset, with ID tables in the format ``id_rows``.

    ``report`` is told what is being done.

    Raises ``DataError`` where it is not one.
    """
    run = Run.load(Path(name))
    generation = with_embeddings(default_generation(run.model), run.model, embeddings=embeddings, offsets=offsets)
    known = known_requests(task, default_budget(run.model, task.manifest.outcome_share))
    indexed = index_run(
        run, task.dataset, known, generation=generation, compression_target=default_compression_target(run.model),
        protocol=str(task.for_calibration.protocol), unseen=task.for_calibration.unseen, device=device,
        id_rows=id_rows, report=report,
    )  # fmt: skip
    return ModelSubject(name, indexed)


def open_extended(
    release: Release, task: EvaluationTask, *, report: Callable[[str], None] = lambda _: None
) -> ModelSubject:
    """A release with the catalogue of the task's dataset, a later one, whose index is calibrated on that one's users.

    Raises ``DataError`` where the release has no use for it, ``ReleaseError`` for a damaged release.
    """
    check_later_dataset(task.manifest, release.manifest.dataset)
    serving = IndexedModel.from_release(release)
    known = known_requests(task, default_budget(serving.model.config, task.manifest.outcome_share))
    on = task.for_calibration
    indexed = reindex(serving, task.dataset, known, protocol=str(on.protocol), unseen=on.unseen, report=report)
    return ModelSubject(release.manifest.release_id, indexed)


def known_requests(task: EvaluationTask, budget: np.ndarray) -> list[KnownRequest]:
    """Requests of the task's users for calibration, with what they did next; ``budget`` ``[O]`` is each request's."""
    return [known_request(case, budget) for case in task.calibration_cases(ItemCatalogue.open(task.dataset))]


def known_request(case: EvaluationCase, budget: np.ndarray) -> KnownRequest:
    return KnownRequest(
        user_id=case.user_id,
        request=case.request(budget),
        target_row=case.target_row,
        target_outcome=case.target_outcome,
    )


def calibration_warning(on: CalibratedOn) -> str | None:
    """What a person should know of the users on whom a model was calibrated; None where nothing is wrong with them."""
    if not on.users:
        return (
            f"calibrated on nobody: no user of --protocol {on.protocol} has a history and an item after it, so "
            "nprobe and the merge threshold are those of catalogue vectors and later steps are not discounted; train "
            "with a larger --set training.evaluation_share"
        )
    if not on.unseen:
        return (
            "calibrated on items that training has seen: it held out no users and fewer than two items of each, so "
            "later steps may weigh too much; train with --set training.evaluation_share=0.1 or "
            "--set training.held_out_last=2"
        )
    return None


def _check_something_is_held_out(name: str, kept: HeldOut, protocol: Protocol) -> None:
    if not protocol.left_out and not kept.evaluation_share:
        instead = (
            f"judge it with --protocol {Protocol.LEAVE_ONE_OUT}"
            if kept.held_out_last
            else "train with --set training.evaluation_share=0.1, or with --set training.held_out_last=2 for "
            f"--protocol {Protocol.LEAVE_ONE_OUT}"
        )
        raise ConfigError(
            f"{name}: trained with evaluation_share=0, expected users held out for --protocol {protocol}; " + instead
        )
    if protocol.left_out > kept.held_out_last:
        raise ConfigError(
            f"{name}: trained with held_out_last={kept.held_out_last}, expected at least {protocol.left_out} "
            f"for --protocol {protocol}; train with --set training.held_out_last=2"
        )


def _check_release(release: Release, task: EvaluationTask) -> None:
    for name in ("outcomes", "surfaces", "item_id_kind", "feature_space"):
        got, expected = getattr(task.manifest, name), getattr(release.manifest.dataset, name)
        if got != expected:
            raise DataError(f"{task.dataset}: {name}={got!r}, expected {expected!r}, which the release was made with")
