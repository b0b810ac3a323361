"""Judging one subject at one task: the protocol decides which evaluation that is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from pinrec_core.errors import DataError
from pinrec_core.evaluation.cases import SERVED_ITEMS
from pinrec_core.evaluation.classic import evaluate_leave_one_out
from pinrec_core.evaluation.held_out import evaluate
from pinrec_core.evaluation.protocol import EvaluationTask
from pinrec_core.evaluation.result import EvaluationResult
from pinrec_core.evaluation.subjects import Subject


class NoCasesError(DataError):
    """The protocol leaves no user, or none whose targets training did not see."""


def judge(
    subject: Subject,
    task: EvaluationTask,
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
    if not task.unseen:
        raise NoCasesError(
            f"{subject.name}: trained with evaluation_share={task.evaluation_share:g}, "
            f"held_out_last={task.held_out_last}: expected users or items held out for --protocol {task.protocol}"
        )
    cases = task.cases(subject.catalogue)
    first = next(cases, None)
    if first is None and not task.protocol.left_out:
        raise NoCasesError(
            f"no held-out user has enough interactions for targets={task.targets} with "
            f"evaluation_share={task.evaluation_share:g}: lower --targets or train with a larger "
            "--set training.evaluation_share"
        )
    if first is None:
        raise NoCasesError("no user has an item to leave out and an interaction before it")
    cases = chain([first], cases)
    if task.protocol.left_out:
        return evaluate_leave_one_out(subject, cases, k=k, protocol=task.protocol, report=report)
    return evaluate(
        subject, cases, outcomes=task.manifest.outcomes, surfaces=task.manifest.surfaces, k=k,
        equal_embeddings=equal_embeddings or subject.embeddings, num_items=num_items, exclude_seen=exclude_seen,
        protocol=task.protocol, report=report,
    )  # fmt: skip
