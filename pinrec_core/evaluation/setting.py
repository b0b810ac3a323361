"""On what subjects are judged: a dataset, a protocol, and what training kept out. The same for all that are compared.

Opens subjects too: a training run (indexed and calibrated now), a release (as frozen) or a counting baseline (counted
now, on what the models were trained on).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from pathlib import Path

from pinrec_core.baselines.co_occurrence import CoOccurrence
from pinrec_core.baselines.popularity import Popularity, PopularityBySurface
from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.config import TrainingConfig
from pinrec_core.dataset import DatasetManifest
from pinrec_core.errors import ConfigError, DataError
from pinrec_core.evaluation.cases import (
    EvaluationCase,
    ahead_of_request,
    held_out_cases,
    leave_one_out_cases,
    training_histories,
)
from pinrec_core.evaluation.classic import evaluate_leave_one_out
from pinrec_core.evaluation.held_out import evaluate
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.served import SERVED_ITEMS
from pinrec_core.evaluation.subjects import ListSubject, ModelSubject, Subject
from pinrec_core.evaluation.user_embeddings import with_embeddings
from pinrec_core.history import History
from pinrec_core.indexed_model import (
    CALIBRATION_USERS,
    IndexedModel,
    default_compression_target,
    default_generation,
)
from pinrec_core.release import EVALUATION_SHARE_KEY, MANIFEST_FILE, Release
from pinrec_core.training import Run

BASELINES = {fit.name: fit for fit in (Popularity, PopularityBySurface, CoOccurrence)}
HELD_OUT_LAST_KEY = "held_out_last"
"""In a release's metrics: how many interactions at every user's end its training did not see."""
CALIBRATED_ON_KEY = "calibrated_on"
"""In a release's account of its index: whom it was calibrated on."""
CALIBRATION_TARGETS = 8
"""Most targets per user that a calibration asks for."""


class NoCasesError(DataError):
    """The protocol leaves no user, or none whose targets training did not see."""


class Protocol(StrEnum):
    """Whose items are to be recalled, and what is known of the user; see ``cases``."""

    HELD_OUT = "held-out"
    HELD_OUT_VALIDATION = "held-out-validation"
    HELD_OUT_OFFLINE = "held-out-offline"
    COLD = "cold"
    LEAVE_ONE_OUT = "leave-one-out"
    LEAVE_ONE_OUT_VALIDATION = "leave-one-out-validation"

    @property
    def offline(self) -> bool:
        """Whether embeddings are made ahead of the request, whose surface and time nobody knows then."""
        return self is Protocol.HELD_OUT_OFFLINE

    @property
    def left_out(self) -> int:
        """Place of the target from the history's end in the leave-one-out protocols, 0 in the others."""
        return {Protocol.LEAVE_ONE_OUT: 1, Protocol.LEAVE_ONE_OUT_VALIDATION: 2}.get(self, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a training kept out of its dataset."""

    dataset: Path | None  # None: a release does not know its own
    evaluation_share: float
    held_out_last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A dataset, a protocol, and what every subject's training kept out of it."""

    dataset: Path
    manifest: DatasetManifest
    protocol: Protocol
    evaluation_share: float
    held_out_last: int
    targets: int
    max_users: int | None

    @staticmethod
    def for_subjects(
        subjects: Sequence[str],
        *,
        dataset: Path | None = None,
        protocol: Protocol = Protocol.HELD_OUT,
        targets: int = 8,
        max_users: int | None = None,
    ) -> Setting:
        """The setting in which all ``subjects`` can be judged: users that none of them was trained on.

        Raises ``ConfigError`` where no dataset is known, several are, or a training saw the item that is left out.
        """
        splits = {name: split_of(name) for name in subjects if name not in BASELINES}
        known = {split.dataset.resolve() for split in splits.values() if split.dataset is not None}
        if dataset is None and len(known) != 1:
            what = "were trained on several" if known else "do not name one"
            raise ConfigError(f"--dataset: expected the prepared dataset to judge on; {list(subjects)} {what}")
        for name, split in splits.items():
            if not protocol.left_out and not split.evaluation_share:
                instead = (
                    f"judge it with --protocol {Protocol.LEAVE_ONE_OUT}"
                    if split.held_out_last
                    else "train with --set training.evaluation_share=0.1, or with --set training.held_out_last=2 for "
                    f"--protocol {Protocol.LEAVE_ONE_OUT}"
                )
                raise ConfigError(
                    f"{name}: trained with evaluation_share=0, expected users held out for --protocol {protocol}; "
                    + instead
                )
            if protocol.left_out > split.held_out_last:
                raise ConfigError(
                    f"{name}: trained with held_out_last={split.held_out_last}, expected at least {protocol.left_out} "
                    f"for --protocol {protocol}; train with --set training.held_out_last=2"
                )
        folder = dataset or known.pop()
        return Setting(
            dataset=folder,
            manifest=DatasetManifest.load(folder),
            protocol=protocol,
            # Held-out users are chosen by hash, so those of the smallest share are held out of all.
            evaluation_share=min(
                (s.evaluation_share for s in splits.values()),
                default=0.0 if protocol.left_out else TrainingConfig().evaluation_share,
            ),
            held_out_last=max((s.held_out_last for s in splits.values()), default=protocol.left_out),
            targets=targets,
            max_users=max_users,
        )

    @staticmethod
    def for_release(
        run: Run, *, dataset: Path | None = None, targets: int = 8, max_users: int | None = None
    ) -> Setting:
        """The setting in which a release of ``run`` is judged: on users held out or, where it was trained on all of
        them, on the last item of each. ``judge`` refuses where training saw that too."""
        folder = dataset or run.dataset
        return Setting(
            dataset=folder,
            manifest=DatasetManifest.load(folder),
            protocol=Protocol.HELD_OUT if run.training.evaluation_share else Protocol.LEAVE_ONE_OUT,
            evaluation_share=run.training.evaluation_share,
            held_out_last=run.training.held_out_last,
            targets=targets,
            max_users=max_users,
        )

    @property
    def unseen(self) -> bool:
        """Whether training did not see the targets."""
        left_out = self.protocol.left_out
        return left_out <= self.held_out_last if left_out else self.evaluation_share > 0

    @property
    def for_calibration(self) -> Setting:
        """The same on the users, or where none are held out the items, that are for validation."""
        protocol = Protocol.HELD_OUT_VALIDATION if self.evaluation_share else Protocol.LEAVE_ONE_OUT_VALIDATION
        return replace(self, protocol=protocol, max_users=CALIBRATION_USERS)

    def cases(self, catalogue: ItemCatalogue) -> Iterator[EvaluationCase]:
        """A fresh stream of the cases, in rows of ``catalogue``."""
        if self.protocol.left_out:
            return leave_one_out_cases(
                self.dataset, catalogue, from_end=self.protocol.left_out, max_users=self.max_users
            )
        cases = held_out_cases(
            self.dataset, catalogue, share=self.evaluation_share, targets=self.targets, max_users=self.max_users,
            cold=self.protocol is Protocol.COLD, validation=self.protocol is Protocol.HELD_OUT_VALIDATION,
        )  # fmt: skip
        return map(ahead_of_request, cases) if self.protocol.offline else cases

    def calibration_cases(self, catalogue: ItemCatalogue) -> list[EvaluationCase]:
        """A sample of users with a history, as a release is calibrated on: of held-out users those for validation.

        The protocols on users for validation judge the same ones, and are for choosing settings alone. Where few users
        have enough items for ``targets``, fewer are asked for: the number that makes most targets in all.
        """

        def num_targets(cases: list[EvaluationCase]) -> int:
            return sum(len(case.target_row) for case in cases)

        setting = self.for_calibration
        Z = 1 if setting.protocol.left_out else min(self.targets, CALIBRATION_TARGETS)
        found = list(replace(setting, targets=Z).cases(catalogue))
        while (Z := Z // 2) and num_targets(found) < CALIBRATION_USERS * Z:
            found = max(found, list(replace(setting, targets=Z).cases(catalogue)), key=num_targets)
        return list(map(ahead_of_request, found)) if self.protocol.offline else found

    def training_histories(self) -> Iterator[History]:
        """What the subjects were trained on, as far as they agree."""
        return training_histories(self.dataset, share=self.evaluation_share, held_out_last=self.held_out_last)


def split_of(subject: str) -> Split:
    """What a run or a release says of its training. Raises ``DataError`` for a folder that is neither."""
    folder = Path(subject)
    if not folder.exists():
        raise DataError(f"{subject}: expected the folder of a run or release, or one of {sorted(BASELINES)}")
    if (folder / MANIFEST_FILE).is_file():
        metrics = Release.open(folder).manifest.metrics
        share = metrics.get(EVALUATION_SHARE_KEY, TrainingConfig().evaluation_share)
        return Split(dataset=None, evaluation_share=share, held_out_last=metrics.get(HELD_OUT_LAST_KEY, 0))
    run = Run.load(folder)
    return Split(
        dataset=run.dataset,
        evaluation_share=run.training.evaluation_share,
        held_out_last=run.training.held_out_last,
    )


def open_subject(
    name: str,
    setting: Setting,
    *,
    embeddings: int | None = None,
    offsets: Sequence[int] | None = None,
    device: str = "cpu",
) -> Subject:
    """A run's or release's folder, or the name of a baseline. ``embeddings`` and ``offsets``: see ``with_embeddings``.

    Raises ``DataError`` for a folder that is neither or that does not fit the dataset.
    """
    if name in BASELINES:
        catalogue = ItemCatalogue.open(setting.dataset)
        return ListSubject(BASELINES[name].fit(setting.training_histories(), catalogue), catalogue)
    if (Path(name) / MANIFEST_FILE).is_file():
        release = Release.open(Path(name))
        _check_release(release, setting)
        indexed = IndexedModel.from_release(release, device)
        generation = with_embeddings(indexed.generation, indexed.model.config, embeddings=embeddings, offsets=offsets)
        return ModelSubject(name, replace(indexed, generation=generation))
    return open_run(name, setting, embeddings=embeddings, offsets=offsets, device=device)


def open_run(
    name: str,
    setting: Setting,
    *,
    embeddings: int | None = None,
    offsets: Sequence[int] | None = None,
    device: str = "cpu",
) -> ModelSubject:
    """A run, indexed, and calibrated on users of its dataset. Raises ``DataError`` where it is not one."""
    run = Run.load(Path(name))
    generation = with_embeddings(default_generation(run.model), run.model, embeddings=embeddings, offsets=offsets)
    cases = setting.calibration_cases(ItemCatalogue.open(setting.dataset))
    indexed = IndexedModel.from_run(
        run, setting.dataset, cases, generation=generation,
        compression_target=default_compression_target(run.model), device=device,
    )  # fmt: skip
    calibrated_on = {
        "protocol": str(setting.for_calibration.protocol),
        "users": len(cases),
        "targets_per_user": len(cases[0].target_row) if cases else 0,
        "unseen": setting.for_calibration.unseen,
    }
    return ModelSubject(name, replace(indexed, calibration=indexed.calibration | {CALIBRATED_ON_KEY: calibrated_on}))


def calibration_warning(indexed: IndexedModel) -> str | None:
    """What is wrong with whom a model was calibrated on, if anything is."""
    on = indexed.calibration.get(CALIBRATED_ON_KEY)
    if on is None:  # a release of before this was recorded
        return None
    if not on["users"]:
        return (
            f"calibrated on nobody: no user of --protocol {on['protocol']} has a history and an item after it, so "
            "nprobe and the merge threshold are those of catalogue vectors and later steps are not discounted; train "
            "with a larger --set training.evaluation_share"
        )
    if not on["unseen"]:
        return (
            "calibrated on items that training has seen: it held out no users and fewer than two items of each, so "
            "later steps may weigh too much; train with --set training.evaluation_share=0.1 or "
            "--set training.held_out_last=2"
        )
    return None


def judge(
    subject: Subject,
    setting: Setting,
    *,
    k: int = 10,
    equal_embeddings: int | None = None,
    num_items: int = SERVED_ITEMS,
    exclude_seen: bool = False,
    report: Callable[[int], None] = lambda _: None,
) -> EvaluationResult:
    """The protocol's evaluation of one subject; ``equal_embeddings`` is the subject's own number unless given.

    Raises ``NoCasesError``.
    """
    if not setting.unseen:
        raise NoCasesError(
            f"{subject.name}: trained with evaluation_share={setting.evaluation_share:g}, "
            f"held_out_last={setting.held_out_last}: expected users or items held out for --protocol {setting.protocol}"
        )
    cases = setting.cases(subject.catalogue)
    first = next(cases, None)
    if first is None and not setting.protocol.left_out:
        raise NoCasesError(
            f"no held-out user has enough interactions for targets={setting.targets} with "
            f"evaluation_share={setting.evaluation_share:g}: lower --targets or train with a larger "
            "--set training.evaluation_share"
        )
    if first is None:
        raise NoCasesError("no user has an item to leave out and an interaction before it")
    cases = chain([first], cases)
    if setting.protocol.left_out:
        return evaluate_leave_one_out(subject, cases, k=k, protocol=setting.protocol, report=report)
    return evaluate(
        subject, cases, outcomes=setting.manifest.outcomes, surfaces=setting.manifest.surfaces, k=k,
        equal_embeddings=equal_embeddings or subject.embeddings, num_items=num_items, exclude_seen=exclude_seen,
        protocol=setting.protocol, report=report,
    )  # fmt: skip


def _check_release(release: Release, setting: Setting) -> None:
    for name in ("outcomes", "surfaces", "item_id_kind", "feature_space"):
        got, expected = getattr(setting.manifest, name), getattr(release.manifest.dataset, name)
        if got != expected:
            raise DataError(
                f"{setting.dataset}: {name}={got!r}, expected {expected!r}, which the release was made with"
            )
