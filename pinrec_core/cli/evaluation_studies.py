"""What `pinrec evaluate` measures beside the metrics, when asked to: control, budgets, steps, number formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.table import Table

from pinrec_core.cli.evaluation_progress import users_progress
from pinrec_core.cli.evaluation_tables import ratio_cell
from pinrec_core.errors import ConfigError, require
from pinrec_core.evaluation.budget_sweep import SweepPoint, count_outcomes, sweep_budget
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.controllability import (
    ControllabilityMatrix,
    controllability_matrix,
    hits_by_desired_outcome,
)
from pinrec_core.evaluation.embeddings_per_step import OFFSETS_PER_STEP, StepsPoint, sweep_embeddings_per_step
from pinrec_core.evaluation.precision import PrecisionRow, compare_precisions
from pinrec_core.evaluation.setting import Setting
from pinrec_core.evaluation.subjects import ModelSubject, Subject
from pinrec_core.evaluation.user_embeddings import with_embeddings


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

    def tables(self) -> Iterator[Table]:
        if self.matrix is not None:
            yield _matrix_table(self.matrix)
        if self.steps:
            yield _steps_table(self.steps)
        if self.budget:
            yield _budget_table(self.budget)
        if self.precision:
            yield _precision_table(self.precision)


def run_studies(studies: Studies, subjects: Sequence[Subject], setting: Setting) -> Findings:
    """Measure with progress bars; the first subject is the one studied."""
    findings = Findings()
    if not studies.any:
        return findings
    first = _model(subjects, 0, "the first subject")
    cases = list(setting.cases(first.catalogue))
    with users_progress() as begin:

        def task(name: str, passes: int) -> Callable[[int], None]:
            return begin(name, passes * len(cases))

        if studies.matrix:
            second = _model(subjects, 1, "the second subject")
            findings.matrix = _matrix(first, second, cases, studies.k, task("control", 2))
        if studies.sweep_steps is not None:
            widths = studies.widths(first)
            findings.steps = list(
                sweep_embeddings_per_step(
                    first, cases, total=studies.sweep_steps, offsets_per_step=widths, k=studies.k,
                    report=task("embeddings per step", len(widths)),
                )
            )  # fmt: skip
        if studies.sweep_budget is not None:
            source, goal = studies.outcomes_swept(first)
            counts = count_outcomes(setting.training_histories(), first.catalogue, len(first.indexed.dataset.outcomes))
            findings.budget = sweep_budget(
                first, cases, from_outcome=source, to_outcome=goal, item_outcomes=counts, num_items=studies.num_items,
                exclude_seen=studies.exclude_seen, report=task("budgets", 1),
            )  # fmt: skip
        if studies.precision:
            findings.precision = compare_precisions(first, cases, k=studies.k, report=task("number formats", 4))
    return findings


def _matrix(
    subject: ModelSubject, reference: ModelSubject, cases: Sequence[EvaluationCase], k: int, report: Any
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


def _matrix_table(matrix: ControllabilityMatrix) -> Table:
    table = Table(title="recall over the reference's: true outcome by desired outcome (all budget)")
    table.add_column("true outcome")
    for desired in matrix.outcomes:
        table.add_column(desired, justify="right")
    for true, row in zip(matrix.outcomes, matrix.ratio, strict=True):
        table.add_row(true, *map(ratio_cell, row))
    return table


def _steps_table(points: Sequence[StepsPoint]) -> Table:
    table = Table(title="offsets per step at a constant total")
    for name in ("offsets", "steps", "recall", "diversity", "median ms", "p99 ms"):
        table.add_column(name, justify="right")
    for point in points:
        metrics = point.result.metrics
        shares = (metrics[name] for name in ("unordered_recall", "diversity"))
        table.add_row(
            str(point.offsets_per_step), str(point.steps), *(f"{share:.4f}" for share in shares),
            f"{point.latency.median_ms:.2f}", f"{point.latency.p99_ms:.2f}",
        )  # fmt: skip
    return table


def _budget_table(points: Sequence[SweepPoint]) -> Table:
    names = list(points[0].served_mix)
    table = Table(title="served recall by true outcome, and what users did with such items, as the budget moves")
    table.add_column("share", justify="right")
    for name in ("all", *names):
        table.add_column(f"recall {name}", justify="right")
    for name in names:
        table.add_column(f"mix {name}", justify="right")
    for point in points:
        recalls = (point.served_recall_by_outcome.get(name) for name in names)
        table.add_row(
            f"{point.share:.1f}", f"{point.served_recall:.4f}",
            *("–" if recall is None else f"{recall:.4f}" for recall in recalls),
            *(f"{point.logged_mix[name]:.3f}" for name in names),
        )  # fmt: skip
    return table


def _precision_table(rows: Sequence[PrecisionRow]) -> Table:
    table = Table(title="number formats against FP32")
    for name in ("features", "arithmetic", "unordered recall", "ratio"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.features, row.arithmetic, f"{row.hit.mean():.4f}", ratio_cell(row.ratio))
    return table
