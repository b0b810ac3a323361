"""What stage processes record, and what the owner reads of it while they live and after they have ended."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from pinrec_core.stages.metrics import EVENTS_STORED, NO_METRICS, STAGE_METRICS, Kind
from pinrec_serving.stage_files import KEPT_SECONDS, MeasuredProcess, StageFiles
from pinrec_serving.stage_metrics import METRICS_VARIABLE, PrometheusMetrics, open_metrics
from tests.pinrec_serving.recording import Recording


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def read(files: StageFiles) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a scrape shows: name and labels → value."""
    registry = CollectorRegistry()
    registry.register(files)  # type: ignore[arg-type]
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def key(name: str, stage: str, release: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"stage": stage, "release": release, **labels}.items())


def test_two_processes_of_a_stage_are_one_series(tmp_path: Path) -> None:
    files = StageFiles(tmp_path)
    with Recording(tmp_path, "signal_fetch", "r1") as one, Recording(tmp_path, "signal_fetch", "r1") as two:
        one.record("pinrec_requests_total", 3, "ok")
        two.record("pinrec_requests_total", 4, "ok")
        one.record("pinrec_history_interactions", 3)
        two.record("pinrec_history_interactions", 100)
        one.record("pinrec_realtime_up", 1)
        two.record("pinrec_realtime_up", 0)
        shown = read(files)
        pids = sorted([one.pid, two.pid])
        assert files.processes() == [MeasuredProcess(pid, "signal_fetch", "r1") for pid in pids]
    stage = ("signal_fetch", "r1")
    assert shown[key("pinrec_requests_total", *stage, result="ok")] == 7
    assert shown[key("pinrec_requests_total", *stage, result="internal")] == 0  # from the start, so that it can grow
    assert shown[key("pinrec_history_interactions_sum", *stage)] == 103
    assert shown[key("pinrec_history_interactions_bucket", *stage, le="4.0")] == 1
    assert shown[key("pinrec_history_interactions_bucket", *stage, le="+Inf")] == 2
    assert shown[key("pinrec_realtime_up", *stage)] == 0  # the one that is worse


def test_a_process_that_ended_leaves_its_counts_and_not_its_gauges(tmp_path: Path) -> None:
    files = StageFiles(tmp_path)
    stage = ("signal_fetch", "r1")
    with Recording(tmp_path, *stage) as living:
        living.record("pinrec_requests_total", 1, "ok")
        living.record("pinrec_realtime_up", 1)
        for _ in range(3):
            with Recording(tmp_path, *stage) as ended:
                ended.record("pinrec_requests_total", 10, "ok")
                ended.record("pinrec_history_interactions", 3)
                ended.record("pinrec_realtime_up", 0)
            shown = read(files)
        again = read(files)  # what was added up is not added a second time
        assert shown == again
        assert shown[key("pinrec_requests_total", *stage, result="ok")] == 31
        assert shown[key("pinrec_history_interactions_bucket", *stage, le="4.0")] == 3
        assert shown[key("pinrec_realtime_up", *stage)] == 1
        assert len(list(tmp_path.iterdir())) == 3 + 2  # of the living process, and of all that ended
        assert files.processes() == [MeasuredProcess(living.pid, *stage)]


def test_a_release_that_was_unloaded_is_forgotten_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    files = StageFiles(tmp_path, clock=clock)
    stored = key("pinrec_events_stored_total", "signal_ingest", "")
    with Recording(tmp_path, "signal_ingest", "") as ingest:
        ingest.record(EVENTS_STORED.name, 5)
        for number in range(4):
            with Recording(tmp_path, "generator", f"r{number}") as stage:
                stage.record("pinrec_requests_total", 1, "ok")
                read(files)
            clock.now += KEPT_SECONDS / 2
        shown = read(files)
        assert {dict(labels)["release"] for _, labels in shown} == {"", "r2", "r3"}
        clock.now += 2 * KEPT_SECONDS
        assert {dict(labels)["release"] for _, labels in read(files)} == {""}
        assert read(files)[stored] == 5
    clock.now += 2 * KEPT_SECONDS
    assert read(files)[stored] == 5  # what belongs to no release is kept


def test_a_release_that_nobody_saw_alive_is_forgotten_too(tmp_path: Path) -> None:
    clock = Clock()
    files = StageFiles(tmp_path, clock=clock)
    with Recording(tmp_path, "generator", "r1") as stage:
        stage.record("pinrec_requests_total", 1, "ok")
    files.clean()  # without a reading before
    assert read(files)[key("pinrec_requests_total", "generator", "r1", result="ok")] == 1
    clock.now += 2 * KEPT_SECONDS
    assert read(files) == {}


def test_a_file_that_was_opened_a_moment_ago_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").touch()
    assert read(StageFiles(tmp_path)) == {}
    with pytest.raises(struct.error):  # what it would be otherwise
        list(MmapedDict.read_all_values_from_file(tmp_path / "counter_1.db"))


def test_without_an_owner_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(METRICS_VARIABLE, raising=False)
    assert open_metrics("generator", "r1") is NO_METRICS
    for metric in STAGE_METRICS:
        NO_METRICS.record(metric, 1, *metric.labels)


def test_a_metric_of_another_stage_is_refused() -> None:
    with pytest.raises(KeyError, match="pinrec_events_stored_total"):
        PrometheusMetrics("generator", "r1").record(EVENTS_STORED)


def test_the_table_keeps_the_conventions() -> None:
    names = [metric.name for metric in STAGE_METRICS]
    assert len(names) == len(set(names))
    for metric in STAGE_METRICS:
        assert metric.name.startswith("pinrec_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert metric.help.endswith(".")
