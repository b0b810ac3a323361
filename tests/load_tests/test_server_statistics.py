"""What models did between two readings of the server's counters."""

from __future__ import annotations

from load_tests.server_statistics import ModelTime, _Counters, between, by_stage, stage_and_release


def test_server_time_between_two_readings():
    before = {
        "generator": _Counters(requests=10, executions=10, queue_ns=10_000_000, compute_ns=50_000_000),
        "idle": _Counters(requests=3, executions=3, queue_ns=1, compute_ns=1),
        "reloaded": _Counters(requests=100, executions=100, queue_ns=1, compute_ns=1),
    }
    after = {
        "generator": _Counters(requests=30, executions=15, queue_ns=30_000_000, compute_ns=150_000_000),
        "idle": before["idle"],
        "reloaded": _Counters(requests=2, executions=1, queue_ns=2_000_000, compute_ns=4_000_000),
    }
    assert between(before, after) == {
        "generator": ModelTime(requests=20, queue_ms=1.0, compute_ms=5.0, batch_size=4.0),
        "reloaded": ModelTime(requests=2, queue_ms=1.0, compute_ms=2.0, batch_size=2.0),
    }


def test_a_model_is_a_stage_of_a_release():
    assert stage_and_release("faiss_retrieval__20261127T013114-f44b__x") == (
        "faiss_retrieval",
        "20261127T013114-f44b__x",
    )
    assert stage_and_release("signal_ingest") == ("signal_ingest", "")


def test_releases_of_a_stage_are_weighted_by_their_requests():
    models = {
        "generator__r1": ModelTime(requests=30, queue_ms=1.0, compute_ms=5.0, batch_size=2.0),
        "generator__r2": ModelTime(requests=10, queue_ms=5.0, compute_ms=9.0, batch_size=1.0),
        "pinrec": ModelTime(requests=40, queue_ms=0.0, compute_ms=9.0, batch_size=1.0),
    }
    assert by_stage(models) == {
        "generator": ModelTime(requests=40, queue_ms=2.0, compute_ms=6.0, batch_size=1.6),
        "pinrec": models["pinrec"],
    }
