"""Which studies are taken beside the metrics, when asked to: control, budgets, steps, number formats. All in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pinrec_core.errors import ConfigError, require
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.protocol import EvaluationTask
from pinrec_core.evaluation.studies.budget_sweep import SweepPoint, count_outcomes, sweep_budget
from pinrec_core.evaluation.studies.controllability import (
    ControllabilityMatrix,
    controllability_matrix,
    hits_by_desired_outcome,
)
from pinrec_core.evaluation.studies.embeddings_per_step import OFFSETS_PER_STEP, StepsPoint, sweep_embeddings_per_step
from pinrec_core.evaluation.studies.precision import PrecisionRow, compare_precisions
from pinrec_core.evaluation.subjects import ModelSubject, Subject
from pinrec_core.generation.defaults import with_embeddings


@dataclass(frozen=True, slots=True, kw_only=True)
class Studies:
    """What was asked for, and how lists are cut."""

    matrix: bool
    sweep_steps: int | None
    sweep_budget: str | None
    precision: bool
    k: int
    num_items: int
    exclude_seen: bool

    @property
    def any(self) -> bool:
        return self.matrix or self.precision or self.sweep_steps is not None or self.sweep_budget is not None

    def check(self, subjects: Sequence[Subject]) -> None:
        """Refuse what cannot be measured, before anything is. Raises ``ConfigError``."""
        if not self.any:
            return
        first = _model(subjects, 0, "the first subject")
        if self.matrix or self.sweep_budget is not None:
            conditioned = first.indexed.model.config.variant.outcome_conditioned
            require(conditioned, "the first subject", first.name, "a model conditioned on outcomes: OC or {MT,OC}",
                    error=ConfigError)  # fmt: skip
        if self.matrix:
            reference = _model(subjects, 1, "--matrix: the second subject")
            conditions = reference.indexed.model.config.num_conditions
            require(conditions == 1, "--matrix: conditions of the second subject", conditions,
                    "1, a model that is not conditioned on outcomes", error=ConfigError)  # fmt: skip
            _with_as_many_embeddings(reference, first)
        if self.sweep_budget is not None:
            self.outcomes_swept(first)
        if self.sweep_steps is not None:
            indexed = first.indexed
            variant = indexed.model.config.variant
            require(not variant.one_embedding, "--sweep-steps: the first subject", first.name,
                    f"a model that generates; a {variant} model has one embedding", error=ConfigError)  # fmt: skip
            for W in self.widths(first):
                with_embeddings(
                    indexed.generation, indexed.model.config, embeddings=self.sweep_steps, offsets=range(1, W + 1)
                )

    def widths(self, subject: Subject) -> tuple[int, ...]:
        """Offsets per step that the subject's model knows."""
        max_offset = _model([subject], 0, "the first subject").indexed.model.config.max_offset
        return tuple(W for W in OFFSETS_PER_STEP if W <= max_offset)

    def outcomes_swept(self, subject: Subject) -> tuple[int, int]:
        """Numbers of the two outcomes that ``--sweep-budget`` names."""
        names = _model([subject], 0, "the first subject").indexed.dataset.outcomes
        parts = (self.sweep_budget or "").split(":")
        known = len(parts) == 2 == len(set(parts)) and all(part in names for part in parts)
        require(known, "--sweep-budget", self.sweep_budget, f"FROM:TO, two of {list(names)}", error=ConfigError)
        return names.index(parts[0]), names.index(parts[1])


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was measured; None for what was not asked for."""

    matrix: ControllabilityMatrix | None = None
    steps: list[StepsPoint] = field(default_factory=list)
    budget: list[SweepPoint] = field(default_factory=list)
    precision: list[PrecisionRow] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data of what was measured."""
        plain: dict[str, Any] = {} if self.matrix is None else {"controllability": self.matrix.to_dict()}
        for name in ("steps", "budget", "precision"):
            points = getattr(self, name)
            if points:
                plain[name] = [point.to_dict() for point in points]
        return plain


Begin = Callable[[str, int | None], Callable[[int], None]]
"""Begins a task of a name and a number of users, and gives what is to be told of each batch of them."""


def run_studies(studies: Studies, subjects: Sequence[Subject], task: EvaluationTask, begin: Begin) -> Findings:
    """Take what was asked for; the first subject is the one studied. ``begin`` is told how far each study is."""
    findings = Findings()
    if not studies.any:
        return findings
    first = _model(subjects, 0, "the first subject")
    cases = list(task.cases(first.catalogue))
    if studies.matrix:
        second = _model(subjects, 1, "the second subject")
        findings.matrix = _matrix(first, second, cases, studies.k, begin("control", 2 * len(cases)))
    if studies.sweep_steps is not None:
        widths = studies.widths(first)
        findings.steps = list(
            sweep_embeddings_per_step(
                first, cases, total=studies.sweep_steps, offsets_per_step=widths, k=studies.k,
                report=begin("embeddings per step", len(widths) * len(cases)),
            )
        )  # fmt: skip
    if studies.sweep_budget is not None:
        source, goal = studies.outcomes_swept(first)
        counts = count_outcomes(task.training_histories(), first.catalogue, len(first.indexed.dataset.outcomes))
        findings.budget = sweep_budget(
            first, cases, from_outcome=source, to_outcome=goal, item_outcomes=counts, num_items=studies.num_items,
            exclude_seen=studies.exclude_seen, report=begin("budgets", len(cases)),
        )  # fmt: skip
    if studies.precision:
        findings.precision = compare_precisions(
            first, cases, k=studies.k, report=begin("number formats", 4 * len(cases))
        )  # fmt: skip
    return findings


def _matrix(
    subject: ModelSubject,
    reference: ModelSubject,
    cases: Sequence[EvaluationCase],
    k: int,
    report: Callable[[int], None],
) -> ControllabilityMatrix:
    plain = _with_as_many_embeddings(reference, subject)
    hits = hits_by_desired_outcome(subject, cases, k=k, report=report)
    by_reference = hits_by_desired_outcome(plain, cases, k=k, report=report)[0]
    outcome = np.stack([case.target_outcome for case in cases])
    return controllability_matrix(hits, by_reference, outcome, subject.indexed.dataset.outcomes)


def _with_as_many_embeddings(reference: ModelSubject, subject: ModelSubject) -> ModelSubject:
    """The reference, generating as many embeddings as one outcome of the subject has. Raises ``ConfigError``."""
    generation, model = subject.indexed.generation, reference.indexed.model.config
    wanted = generation.steps * len(generation.offsets)
    require(wanted == 1 or not model.variant.one_embedding, "--matrix: the second subject", reference.name,
            f"a model that generates {wanted} embeddings, as many as the first has for one outcome; a {model.variant} "
            "model has one", error=ConfigError)  # fmt: skip
    equal = with_embeddings(reference.indexed.generation, model, embeddings=wanted)
    return ModelSubject(reference.name, replace(reference.indexed, generation=equal))


def _model(subjects: Sequence[Subject], place: int, what: str) -> ModelSubject:
    got = subjects[place] if place < len(subjects) else None
    if not isinstance(got, ModelSubject):
        raise ConfigError(f"{what}={got.name if got else None!r}: expected a run or a release")
    return got
