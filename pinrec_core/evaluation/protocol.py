"""The task that subjects are judged at: a dataset, a protocol, and what training kept out of the dataset.

All subjects that are compared are given the same task. It gives out cases, for judging and for calibrating, and knows
no model and no baseline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.splits import training_histories
from pinrec_core.evaluation.cases import EvaluationCase, ahead_of_request, held_out_cases, leave_one_out_cases
from pinrec_core.history import History

CALIBRATION_USERS = 256
CALIBRATION_CASES = 1024
CALIBRATION_REQUESTS_PER_USER = 8
CALIBRATION_TARGETS = 8
"""Most users, requests of theirs, requests of one user, and targets per request that a calibration asks for."""


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
class EvaluationTask:
    """A dataset, a protocol, and what every subject's training kept out of it."""

    dataset: Path
    manifest: DatasetManifest
    protocol: Protocol
    evaluation_share: float
    held_out_last: int
    targets: int
    max_users: int | None

    @property
    def unseen(self) -> bool:
        """Whether training did not see the targets."""
        left_out = self.protocol.left_out
        return left_out <= self.held_out_last if left_out else self.evaluation_share > 0

    @property
    def for_calibration(self) -> EvaluationTask:
        """The same task on the users that are for validation or, where no users are held out, on the items that are."""
        protocol = Protocol.HELD_OUT_VALIDATION if self.evaluation_share else Protocol.LEAVE_ONE_OUT_VALIDATION
        return replace(self, protocol=protocol, max_users=CALIBRATION_USERS)

    def cases(self, catalogue: ItemCatalogue, *, earlier: int = 0) -> Iterator[EvaluationCase]:
        """A fresh stream of the cases, in rows of ``catalogue``; of held-out users those ``earlier`` requests ago."""
        if self.protocol.left_out:
            return leave_one_out_cases(
                self.dataset, catalogue, from_end=self.protocol.left_out, max_users=self.max_users
            )
        cases = held_out_cases(
            self.dataset, catalogue, share=self.evaluation_share, targets=self.targets, max_users=self.max_users,
            cold=self.protocol is Protocol.COLD, validation=self.protocol is Protocol.HELD_OUT_VALIDATION,
            earlier=earlier,
        )  # fmt: skip
        return map(ahead_of_request, cases) if self.protocol.offline else cases

    def calibration_cases(self, catalogue: ItemCatalogue) -> list[EvaluationCase]:
        """A sample of users with a history, to calibrate a release on: of the held-out users those for validation.

        The protocols on users for validation judge these same users, so they are for choosing settings only. Where few
        users have enough items for ``targets``, fewer are asked for, namely the number that makes most targets in all.
        Behind the latest request of every user come earlier ones, for outcomes so rare that few of the latest see them.
        """

        def num_targets(cases: list[EvaluationCase]) -> int:
            return sum(len(case.target_row) for case in cases)

        task = self.for_calibration
        task = replace(task, targets=1 if task.protocol.left_out else min(self.targets, CALIBRATION_TARGETS))
        found = list(task.cases(catalogue))
        best, Z = task, task.targets
        while (Z := Z // 2) and num_targets(found) < CALIBRATION_USERS * Z:
            fewer = replace(task, targets=Z)
            if num_targets(cases := list(fewer.cases(catalogue))) > num_targets(found):
                best, found = fewer, cases
        if not task.protocol.left_out:
            for earlier in range(1, CALIBRATION_REQUESTS_PER_USER):
                if len(found) >= CALIBRATION_CASES or not (cases := list(best.cases(catalogue, earlier=earlier))):
                    break
                found += cases[: CALIBRATION_CASES - len(found)]
        return list(map(ahead_of_request, found)) if self.protocol.offline else found

    def training_histories(self) -> Iterator[History]:
        """The histories that all subjects were trained on."""
        return training_histories(self.dataset, share=self.evaluation_share, held_out_last=self.held_out_last)
