"""Benchmarks that read a release: what they ask of its stages is what those answer."""

from __future__ import annotations

from benchmarks.bench_retrieval import release_workload
from benchmarks.demo import Prepared
from benchmarks.options import Options


def test_the_queries_of_a_release_are_those_of_its_stages(ml100k):
    options = Options(
        quick=True, presets=("tiny",), prepared=Prepared(release=ml100k.releases, signals=ml100k.signals),
        release=ml100k.releases, threads_compared=(1,),
    )  # fmt: skip
    workload = release_workload(options, 100)
    assert {int(plan.quota.sum()) for plan in workload.plans} == {100}
    assert {plan.embedding.shape[1] for plan in workload.plans} == {workload.index.width}
