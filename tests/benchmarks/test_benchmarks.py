"""Benchmarks on tiny sizes: the compared functions give equal results, and the reports are complete.

No test looks at a time.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bench_generator, bench_id_embedder, bench_retrieval, timing
from benchmarks.ann_peers import cheapest_at_recall
from benchmarks.bench_generator import Case
from benchmarks.demo import Prepared
from benchmarks.generator_twins import MatmulFlops, generate_by_recomputing
from benchmarks.machine import machine_card
from benchmarks.options import Options
from benchmarks.report import compare, document, save
from benchmarks.timing import Timing, time_together
from pinrec_core.config.presets import preset
from pinrec_core.config.sections import GenerationConfig, Variant
from pinrec_core.errors import ConfigError
from pinrec_core.generation.generate import RequestContext, condition_of_step, generate
from pinrec_core.generation.inputs import packed_histories, request_context
from pinrec_core.model.packed_histories import PackedHistories
from pinrec_core.model.pinrec import PinRec

TOLERANCE = 2e-5  # float32 sums in another order; embeddings are unit vectors
CASE = Case(preset="tiny", variant=Variant.MT_OC, B=2, S=4, W=3)


@pytest.fixture
def options(monkeypatch) -> Options:
    """The smallest run: one call per turn, two turns."""
    monkeypatch.setattr(timing, "TURNS", 2)
    monkeypatch.setattr(Options, "seconds", 0.0)
    return Options(quick=True, presets=("tiny",), prepared=Prepared(), release=None, threads_compared=(1,))


def quiet(_: str) -> None:
    """Show no progress."""


def inputs() -> tuple[PackedHistories, RequestContext]:
    """What the model reads of the case's random requests."""
    requests, id_embedding = bench_generator.random_requests(CASE.config, CASE.B)
    batch = packed_histories([request.history for request in requests], id_embedding, requests)
    return batch, request_context(requests, GenerationConfig(steps=CASE.S), device=torch.device("cpu"))


def test_the_plain_twin_generates_what_generate_does():
    torch.manual_seed(0)
    model = PinRec(CASE.config).eval()
    batch, context = inputs()
    cached = generate(model, batch, context, (1, 2, 3))
    torch.testing.assert_close(
        cached, generate_by_recomputing(model, batch, context, (1, 2, 3)), atol=TOLERANCE, rtol=0
    )


def test_the_floor_counts_no_more_than_is_computed():
    """The head is counted exactly. The total is below what is computed, as queries and masked positions cost too."""
    model = PinRec(CASE.config).eval()
    batch, context = inputs()
    needed = MatmulFlops.of(CASE.config, B=CASE.B, T=CASE.config.max_history, S=CASE.S, W=CASE.W)
    with FlopCounterMode(display=False) as counted:
        generate(model, batch, context, (1, 2, 3))
    assert needed.total <= counted.get_total_flops() <= 2 * needed.total
    with torch.inference_mode():
        condition = condition_of_step(model, (1, 2, 3))[:, : CASE.config.num_conditions]
        hidden = torch.randn(CASE.B, 1, 1, CASE.config.hidden_width)
        with FlopCounterMode(display=False) as head:
            model.head.conditioned(hidden, condition)
    assert head.get_total_flops() * CASE.S == needed.head


@pytest.mark.parametrize(
    ("name", "variant", "flops"),
    [
        ("tiny", Variant.UC, (10_467_840, 3_219_840, 884_736)),
        ("tiny", Variant.MT_OC, (10_467_840, 3_219_840, 2_064_384)),
        ("small", Variant.OC, (87_607_296, 24_625_920, 8_257_536)),
        ("base", Variant.MT_OC, (10_121_023_488, 2_567_508_480, 212_336_640)),
    ],
)
def test_the_floors_of_the_presets_stay_what_they_were(name, variant, flops):
    """Ratios to the floor are compared between versions, so the floor must not move."""
    config = preset(name).model_for(variant=variant, num_outcomes=3, num_surfaces=4, feature_width=256)
    needed = MatmulFlops.of(config, B=3, T=20, S=6, W=4)
    assert (needed.prefill, needed.decode, needed.head) == flops


def test_the_recall_of_retrieval_is_that_against_exhaustive_search(options, monkeypatch):
    monkeypatch.setattr(bench_retrieval, "SYNTHETIC_ITEMS", 120_000)  # a tenth of it with --quick: more than is flat
    monkeypatch.setattr(bench_retrieval, "CLUSTERS", 20)
    workload = bench_retrieval.synthetic_workload(options, N=24)
    assert {int(plan.quota.sum()) for plan in workload.plans} == {24}
    assert workload.index.structure == "IVF_HNSW"
    assert 0.9 < bench_retrieval.recall(workload, workload.plans[:8]) <= 1
    workload.index.nprobe = workload.index.nlist
    assert bench_retrieval.recall(workload, workload.plans[:8]) == 1


def test_peers_are_compared_at_the_cheapest_setting_that_finds_enough():
    exact = np.array([[0, 1], [2, 3]])
    found = [np.array([[0, 9], [2, 9]]), np.array([[0, 1], [2, 9]]), exact]
    searches = [lambda query, k, rows=rows: rows for rows in found]
    queries = np.zeros((2, 4), np.float32)
    assert cheapest_at_recall(searches, queries, exact, 0.7) == (searches[1], 0.75)
    assert cheapest_at_recall(searches[:2], queries, exact, 0.9) == (searches[1], 0.75)


@pytest.mark.parametrize("module", [bench_generator, bench_id_embedder, bench_retrieval])
def test_every_case_is_compared_with_its_baseline(module, options, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_retrieval, "SYNTHETIC_ITEMS", 8000)
    monkeypatch.setattr(bench_retrieval, "CLUSTERS", 20)
    monkeypatch.setattr(bench_generator, "cases", lambda _: iter([CASE]))
    result = module.run(options, quiet)
    cases = {tuple(row.case.items()) for row in result.rows}
    own = [row for row in result.rows if row.what == result.baseline]
    assert {tuple(row.case.items()) for row in own} == cases
    assert all(row.ratio == 1 for row in own)
    card = machine_card()
    saved = json.loads(save(tmp_path, card, result, seconds=0.0).read_text("utf-8"))
    assert saved["rows"] == json.loads(json.dumps(document(card, [result])))["benchmarks"][result.benchmark]["rows"]
    assert {"cpu", "cores", "memory_gib", "versions", "commit", "load_average"} <= set(saved["machine"])


def test_a_timing_is_median_and_99th_percentile():
    timing = Timing.of(range(1, 1001))
    assert (timing.calls, timing.median_ms, timing.p99_ms) == (1000, 500.5, 991)
    assert Timing.of([3.0, 1.0]).p99_ms == 3.0


def test_functions_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "TURNS", 3)
    order: list[str] = []
    timings = time_together({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, seconds=0.0)
    assert order == ["a", "a", "b", "b", "a", "b", "a", "b", "a", "b"]  # warm-up, then turns
    assert {name: t.calls for name, t in timings.items()} == {"a": 3, "b": 3}


def test_ratios_are_against_the_baseline_of_the_case():
    timings = {"base": Timing(calls=1, median_ms=4.0, p99_ms=4.0), "x": Timing(calls=1, median_ms=1.0, p99_ms=2.0)}
    assert [row.ratio for row in compare({"B": 1}, timings, "base")] == [1.0, 0.25]


def test_a_release_without_signals_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected both or neither"):
        Prepared(release=tmp_path)
