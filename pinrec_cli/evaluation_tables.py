"""Evaluations as tables: the subjects side by side, and the ratio of the first to each of the others."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from pinrec_core.evaluation.bootstrap import Interval
from pinrec_core.evaluation.opening import BASELINES
from pinrec_core.evaluation.protocol import EvaluationTask
from pinrec_core.evaluation.result import EvaluationResult, compare, compare_at_equal_distinct_items

RECALLS = {"hit": "unordered_recall", "hit_equal_items": "unordered_recall_equal_items", "served_hit": "served_recall"}
"""Arrays of the held-out protocols and the metrics that are their means."""
RANKINGS = {"hit": "hit_rate", "ndcg": "ndcg"}
"""The same for the leave-one-out protocols."""
EQUAL_DISTINCT = "unordered_recall_equal_distinct_items"
"""The baseline's single list is cut to as many items as the first subject's lists hold distinct ones."""
_SHOWN = {
    "unordered_recall": "unordered recall@{k}",
    "unordered_recall_equal_items": "… at equal items",
    "served_recall": "served recall@{num_items}",
    "hit_rate": "HR@{k}",
    "ndcg": "NDCG@{k}",
    "embeddings": "embeddings per user",
    "distinct_items": "distinct items per user",
    "diversity": "diversity",
    "catalogue_coverage": "catalogue coverage",
    "served_coverage": "… by served items",
    "compression_ratio": "compression ratio",
}
_MOST_GROUPS = 8
"""How many outcomes, and how many surfaces, a table shows; the JSON document holds all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of the first subject over another's, on the same users."""

    metric: str
    subject: str
    baseline: str
    ratio: Interval

    def to_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric, "subject": self.subject, "baseline": self.baseline, **self.ratio.to_dict(),
        }  # fmt: skip


def comparisons(results: Sequence[EvaluationResult]) -> list[Comparison]:
    """The ratios of the first result to each of the others. Raises ``DataError`` when they have different users."""
    first, *others = results
    arrays = RANKINGS if "ndcg" in first.arrays else RECALLS
    found = []
    for other in others:
        ratios = {metric: compare([first], [other], array) for array, metric in arrays.items()}
        if "list_rank" in other.arrays:
            ratios[EQUAL_DISTINCT] = compare_at_equal_distinct_items(first, other)
        found += [
            Comparison(metric=metric, subject=first.subject, baseline=other.subject, ratio=ratio)
            for metric, ratio in ratios.items()
        ]
    return found


def metrics_table(results: Sequence[EvaluationResult], task: EvaluationTask) -> Table:
    """Every metric in a row, with one column per subject."""
    first = results[0].metrics
    parts = [f"{first['users']:,} users ({task.protocol})", f"catalogue of {first['catalogue']:,}"]
    if "targets_per_user" in first:
        parts.insert(1, f"{first['targets_per_user']} targets each")
    table = Table(title=f"{task.manifest.name}: " + " · ".join(parts))
    table.add_column("metric")
    for name in short_names([result.subject for result in results]).values():
        table.add_column(name, justify="right", overflow="fold")
    for metric, label in _SHOWN.items():
        if metric in first:
            table.add_row(label.format(**first), *(_number(result.metrics[metric]) for result in results))
    for group, kind in (("by_outcome", "outcome"), ("by_surface", "surface")):
        largest = sorted(first.get(group, {}), key=lambda name: -first[group][name]["targets"])
        for name in largest[:_MOST_GROUPS] if len(largest) > 1 else []:
            table.add_row(
                f"recall@{first['k']}, {kind} {name or 'unknown'}",
                *(_number(result.metrics[group][name]["unordered_recall"]) for result in results),
            )
    return table


def comparison_table(found: Sequence[Comparison]) -> Table:
    """The ratios with their intervals."""
    names = short_names(list(dict.fromkeys(name for one in found for name in (one.subject, one.baseline))))
    table = Table(title=f"{names[found[0].subject]} over the others (95% interval over users)" if found else None)
    for name in ("metric", "over"):
        table.add_column(name)
    table.add_column("ratio", justify="right")
    for one in found:
        table.add_row(one.metric.replace("_", " "), names[one.baseline], ratio_cell(one.ratio))
    return table


def short_names(subjects: Sequence[str]) -> dict[str, str]:
    """The last parts of the subjects' paths, as many as tell them apart: ``a/seed0`` and ``b/seed0``.

    A name is a relative path without ``..``, so that a folder of that name lies within the folder where it is made.
    """
    parts = {
        subject: (subject,) if subject in BASELINES else Path(os.path.abspath(subject)).parts[1:]
        for subject in subjects
    }  # fmt: skip
    for length in range(1, max(map(len, parts.values()), default=1) + 1):
        names = {subject: "/".join(found[-length:]) for subject, found in parts.items()}
        if len(set(names.values())) == len(names):
            return names
    return {subject: f"{number}/{'/'.join(parts[subject])}" for number, subject in enumerate(subjects)}


def ratio_cell(ratio: Interval) -> str:
    """A ratio as ``1.230× [1.100, 1.370]``; a dash where the baseline finds nothing."""
    return f"{ratio.value:.3f}× [{ratio.low:.3f}, {ratio.high:.3f}]" if math.isfinite(ratio.value) else "–"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
