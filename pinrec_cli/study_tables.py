"""The findings of an evaluation's studies as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from pinrec_cli.evaluation_tables import ratio_cell
from pinrec_core.evaluation.studies.budget_sweep import SweepPoint
from pinrec_core.evaluation.studies.controllability import ControllabilityMatrix
from pinrec_core.evaluation.studies.embeddings_per_step import StepsPoint
from pinrec_core.evaluation.studies.precision import PrecisionRow
from pinrec_core.evaluation.studies.selection import Findings


def study_tables(findings: Findings) -> Iterator[Table]:
    """One table for each study that was made."""
    if findings.matrix is not None:
        yield _matrix_table(findings.matrix)
    if findings.steps:
        yield _steps_table(findings.steps)
    if findings.budget:
        yield _budget_table(findings.budget)
    if findings.precision:
        yield _precision_table(findings.precision)


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
    names = points[0].outcomes
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
