"""Benchmarks that read a release: what they ask of its stages is what those answer."""

from __future__ import annotations

from benchmarks.bench_retrieval import release_workload
from benchmarks.demo import Prepared
from benchmarks.operation import kills
from benchmarks.operation.drill import Setting
from benchmarks.options import Options
from pinrec_core.contract import PIPELINE, SIGNAL_INGEST


def test_the_queries_of_a_release_are_those_of_its_stages(ml100k):
    options = Options(
        quick=True, presets=("tiny",), prepared=Prepared(release=ml100k.releases, signals=ml100k.signals),
        release=ml100k.releases, threads_compared=(1,),
    )  # fmt: skip
    workload = release_workload(options, 100)
    assert {int(plan.quota.sum()) for plan in workload.plans} == {100}
    assert {plan.embedding.shape[1] for plan in workload.plans} == {workload.index.width}


def test_every_stage_that_is_killed_comes_back_and_no_event_is_lost(ml100k, tmp_path):
    """The short form of a drill, one round for each stage of a real release."""
    progress: list[str] = []
    setting = Setting(
        releases=ml100k.releases, signals=ml100k.signals, options=["--threads=1"], quick=True, progress=progress.append
    )
    *rounds, all_ = kills.run(setting)
    assert [row["stage"] for row in rounds] == [spec.name for spec in (*PIPELINE, SIGNAL_INGEST)]
    assert all_["failed outside"] == 0
    assert all_["events acknowledged"] > 0
    assert all_["events lost"] == 0
