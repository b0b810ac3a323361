"""A ``Metrics`` that remembers."""

from __future__ import annotations

from collections import defaultdict

from pinrec_core.stages.metrics import Metric


class Recorded:
    """``values`` has what was recorded, in order, by the name of the metric and the values of its labels."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], list[float]] = defaultdict(list)

    def record(self, metric: Metric, value: float = 1, *labels: str) -> None:
        assert len(labels) == len(metric.labels), metric.name
        self.values[metric.name, *labels].append(value)

    def of(self, metric: Metric, *labels: str) -> list[float]:
        return self.values[metric.name, *labels]

    def total(self, metric: Metric, *labels: str) -> float:
        return sum(self.of(metric, *labels))
