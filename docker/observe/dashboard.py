"""Writes Grafana's dashboard: ``python docker/observe/dashboard.py`` after a change here.

Rows answer, from top to bottom: is it well; which stage is not; which release, since when; what goes in (histories and
events); what comes out (embeddings and items); what the machine has left.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("grafana") / "dashboards" / "pinrec.json"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24  # of Grafana's grid
CHOSEN = 'instance=~"$instance", release=~"$release|"'
"""What the variables at the top choose. Series of no release are always shown."""
STAGE = f'{CHOSEN}, stage=~"$stage"'
FAILED = f'{STAGE}, result!="ok"'
GENERATOR = f'{CHOSEN}, stage="generator"'
MODEL = f'{CHOSEN}, model=~"$stage"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: its queries with their legends, its unit in Grafana's words, and its width in columns."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"


def by(labels: str, metric: str, chosen: str = STAGE) -> str:
    """The rate of a counter, summed."""
    return f"sum by ({labels}) (rate({metric}{{{chosen}}}[$__rate_interval]))"


def quantiles(metric: str, labels: str = "stage") -> tuple[tuple[str, str], ...]:
    """The median and the 99th percentile of a histogram."""
    return tuple(
        (
            f"histogram_quantile({q}, {by(f'{labels}, le', metric + '_bucket')})",
            " ".join([*(f"{{{{{label}}}}}" for label in labels.split(", ")), f"p{100 * q:.0f}"]),
        )
        for q in (0.5, 0.99)
    )


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Is it well?",
        (
            Panel("Ready", (('pinrec_ready{instance=~"$instance"}', "{{instance}}"),), width=4, kind="stat"),
            Panel("Alerts", (('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),), width=4, kind="stat"),
            Panel(
                "Requests per second, and those that were refused",
                (
                    (by("instance", "nv_inference_request_success", 'instance=~"$instance", model="pinrec"'),
                     "{{instance}} answered"),
                    (by("instance, reason", "nv_inference_request_failure", 'instance=~"$instance", model="pinrec"'),
                     "{{instance}} {{reason}}"),
                    (by("instance, reason", "pinrec_refused_requests_total", 'instance=~"$instance"'),
                     "{{instance}} refused: {{reason}}"),
                ),
                unit="reqps",
            ),
            Panel(
                "Latency of a request",
                tuple(
                    (f'nv_inference_request_summary_us{{instance=~"$instance", model="pinrec", quantile="{q}"}} / 1e6',
                     f"{{{{instance}}}} p{name}")
                    for q, name in (("0.5", "50"), ("0.95", "95"), ("0.99", "99"))
                ),
                unit="s",
            ),
        ),
    ),
    (
        "Which stage?",
        (
            Panel("Requests per second", ((by("stage", "pinrec_requests_total"), "{{stage}}"),), unit="reqps"),
            Panel(
                "Share of requests that failed",
                ((f'{by("stage, result", "pinrec_requests_total", FAILED)}'
                  f' / on (stage) group_left {by("stage", "pinrec_requests_total")}', "{{stage}} {{result}}"),),
                unit="percentunit",
            ),
            Panel("Time of a batch", quantiles("pinrec_compute_seconds"), unit="s"),
            Panel(
                "Time in the queue, mean",
                ((f'{by("model", "nv_inference_queue_duration_us", MODEL)}'
                  f' / {by("model", "nv_inference_request_success", MODEL)} / 1e6', "{{model}}"),),
                unit="s",
            ),
            Panel(
                "Requests that wait",
                ((f"sum by (model) (nv_inference_pending_request_count{{{MODEL}}})", "{{model}}"),),
            ),
            Panel(
                "Requests of a batch, mean",
                ((f'{by("stage", "pinrec_batch_requests_sum")} / {by("stage", "pinrec_batch_requests_count")}',
                  "{{stage}}"),),
            ),
            Panel("Restarts", ((f"sum by (stage, release) (increase(pinrec_stage_restarts_total{{{STAGE}}}[1h]))",
                                "{{stage}} {{release}}"),)),
        ),
    ),
    (
        "Which release, since when?",
        (
            Panel(
                "Release that serves",
                (('max by (release, instance) (pinrec_release_info{instance=~"$instance"})',
                  "{{instance}} {{release}}"),),
                width=12,
                kind="state-timeline",
            ),
            Panel(
                "Serving since",
                (('pinrec_serving_since_timestamp_seconds{instance=~"$instance"} * 1000', "{{instance}} {{release}}"),),
                unit="dateTimeAsIso",
                width=6,
                kind="stat",
            ),
            Panel(
                "Made",
                (('pinrec_release_created_timestamp_seconds{instance=~"$instance"} * 1000',
                  "{{instance}} {{release}}"),),
                unit="dateTimeAsIso",
                width=6,
                kind="stat",
            ),
            Panel("Time of a batch, by release", quantiles("pinrec_compute_seconds", "stage, release"), unit="s"),
            Panel(
                "Requests that failed, by release",
                ((by("release, result", "pinrec_requests_total", FAILED), "{{release}} {{result}}"),),
                unit="reqps",
            ),
            Panel(
                "Swaps, and what the last one took",
                (
                    ('increase(pinrec_swaps_total{instance=~"$instance"}[1h])', "{{instance}} {{result}}"),
                    ('pinrec_last_swap_seconds{instance=~"$instance"}', "{{instance}} seconds"),
                ),
            ),
            Panel(
                "Program of the generator",
                ((f"max by (instance, program, release) (pinrec_program_info{{{CHOSEN}}})",
                  "{{instance}} {{program}} {{release}}"),),
                kind="state-timeline",
            ),
        ),
    ),
    (
        "What is known of the users?",
        (
            Panel(
                "Where histories come from",
                ((f'{by("source", "pinrec_histories_total", CHOSEN)}'
                  f' / on () group_left sum(rate(pinrec_histories_total{{{CHOSEN}}}[$__rate_interval]))',
                  "{{source}}"),),
                unit="percentunit",
            ),
            Panel("Interactions of a history", quantiles("pinrec_history_interactions")),
            Panel("Age of the newest interaction", quantiles("pinrec_history_age_seconds"), unit="s"),
            Panel("Catching up with the real-time store", quantiles("pinrec_realtime_catch_up_seconds"), unit="s"),
            Panel(
                "Real-time store, and age of the batch",
                (
                    (f"min by (instance) (pinrec_realtime_up{{{CHOSEN}}})", "{{instance}} real-time up"),
                    (f"(time() - max by (instance) (pinrec_batch_end_timestamp_seconds{{{CHOSEN}}})) / 86400",
                     "{{instance}} days since the batch"),
                ),
            ),
            Panel(
                "Events stored", ((by("instance", "pinrec_events_stored_total", CHOSEN), "{{instance}}"),), unit="cps"
            ),
            Panel("Age of an event when it is stored", quantiles("pinrec_event_age_seconds"), unit="s"),
        ),
    ),
    (
        "What do they get?",
        (
            Panel(
                "Embeddings of a request",
                tuple(
                    (f'{by("release", f"pinrec_embeddings_{what}_total", CHOSEN)} / on (release) '
                     f'{by("release", "pinrec_requests_total", GENERATOR)}',
                     f"{{{{release}}}} {what.replace('_', ' ')}")
                    for what in ("generated", "kept", "looked_up")
                ),
            ),
            Panel(
                "Items by outcome, asked and returned",
                (
                    (by("outcome", "pinrec_items_asked_total", CHOSEN), "{{outcome}} asked"),
                    (by("outcome", "pinrec_items_returned_total", CHOSEN), "{{outcome}} returned"),
                ),
                unit="cps",
            ),
            Panel(
                "Short answers and second looks",
                (
                    (by("release", "pinrec_short_answers_total", CHOSEN), "{{release}} short"),
                    (by("release", "pinrec_second_looks_total", CHOSEN), "{{release}} second looks"),
                ),
                unit="cps",
            ),
            Panel(
                "Recall of the index",
                (
                    (f"sum by (release) (increase(pinrec_recall_found_total{{{CHOSEN}}}[1h]))"
                     f" / sum by (release) (increase(pinrec_recall_wanted_total{{{CHOSEN}}}[1h]))", "{{release}}"),
                    (f"max by (release) (pinrec_recall_target_ratio{{{CHOSEN}}})", "{{release}} target"),
                ),
                unit="percentunit",
            ),
        ),
    ),
    (
        "What has the machine left?",
        (
            Panel(
                "Memory",
                ((f"pinrec_process_resident_memory_bytes{{{CHOSEN}}}", "{{stage}} {{pid}}"),),
                unit="bytes",
            ),
            Panel("Cores in use", ((by("stage", "pinrec_process_cpu_seconds_total", CHOSEN), "{{stage}}"),)),
            Panel("Open files", ((f"pinrec_process_open_fds{{{CHOSEN}}}", "{{stage}} {{pid}}"),)),
            Panel(
                "Free share of the disk",
                (('pinrec_disk_free_bytes{instance=~"$instance"} / pinrec_disk_size_bytes{instance=~"$instance"}',
                  "{{instance}} {{folder}}"),),
                unit="percentunit",
            ),
        ),
    ),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": "pinrec",
        "title": "PinRec: which stage, which release, since when",
        "tags": ["pinrec"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {
            "list": [
                _variable("instance", "label_values(pinrec_ready, instance)"),
                _variable("release", "label_values(pinrec_requests_total, release)"),
                _variable("stage", "label_values(pinrec_requests_total, stage)"),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "a release begins to serve",
                    "datasource": DATASOURCE,
                    "enable": True,
                    "expr": 'pinrec_serving_since_timestamp_seconds{instance=~"$instance"} * 1000',
                    "useValueForTime": "on",
                    "titleFormat": "{{release}} serves",
                    "iconColor": "blue",
                }
            ]
        },
        "panels": list(_placed()),
    }


def _placed() -> Iterable[dict[str, Any]]:
    """The rows and panels, from left to right and top to bottom."""
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}  # fmt: skip
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + 8
            number += 1
            yield _panel(panel, number) | {"gridPos": {"x": x, "y": y, "w": panel.width, "h": 8}}
            x += panel.width
        y += 8


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for place, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the range of time changes
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def text() -> str:
    """What the file holds."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text(), "utf-8")
