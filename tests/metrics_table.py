"""The table of all metrics in docs/operate/observe.md. ``python -m tests.metrics_table`` writes it anew."""

from __future__ import annotations

from pinrec_core.stages.metrics import COMMON_LABELS, STAGE_METRICS, Metric
from pinrec_serving.service_metrics import SERVICE_METRICS
from tests.conftest import ROOT

DOCUMENT = ROOT / "docs" / "operate" / "observe.md"
BEGIN, END = "<!-- metrics -->\n", "<!-- end of metrics -->\n"


def row(metric: Metric, who: str, labels: tuple[str, ...]) -> str:
    return f"| `{metric.name}` | {metric.kind.value} | {who} | {', '.join(labels)} | {metric.help} |\n"


def table() -> str:
    lines = ["\n| metric | kind | recorded by | labels | meaning |\n| --- | --- | --- | --- | --- |\n"]
    for metric in STAGE_METRICS:
        lines.append(row(metric, metric.stage or "every stage", (*COMMON_LABELS, *metric.labels)))
    for metric in SERVICE_METRICS:
        lines.append(row(metric, "owner", metric.labels))
    return "".join(lines) + "\n"


def with_table(text: str) -> str:
    """The document with the table as the code has it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8")), "utf-8")
