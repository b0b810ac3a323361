"""Retrieval: ``retrieve`` (index lookup, merge, top-up) against the same with brute force, with recall beside latency.

Approximate search is judged by what it finds: ``recall`` is the share of the items that brute force would have
returned. With a release, the vectors, nprobe and overfetch are those of the release, and its generator makes the plans
for its users. Without one, the vectors are clustered and the embeddings of each plan lie near some of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from benchmarks.floors import Floor, read_floor
from benchmarks.options import Options, Progress
from benchmarks.pipeline import Pipeline, request_tensors
from benchmarks.report import Result, Row, Value, compare
from benchmarks.timing import time_together
from pinrec_core.config.sections import GenerationConfig
from pinrec_core.contract import GENERATOR
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.item_softmax import ItemSoftmax
from pinrec_core.retrieval.merging import MergeByMixture, MergeRule, RankedItems, merge_by_quota, retrieve

BASELINE = "brute force (IndexFlatIP)"
BATCHES = (1, 16)
NUM_ITEMS = (100, 1000)
SYNTHETIC_ITEMS, SYNTHETIC_WIDTH, CLUSTERS = 100_000, 64, 1000
PLAN_EMBEDDINGS, PLAN_OUTCOMES = 12, 3
OVERFETCH = GenerationConfig().overfetch
INVERSE_TEMPERATURE = 20.0
RECALL_TARGET, RECALL_DEPTH = 0.99, 100
NOTHING = np.empty(0, np.int64)


class ExactIndex:
    """Brute force behind the methods of ``ItemIndex`` that retrieval uses: baseline, and reference for recall."""

    def __init__(self, vectors: np.ndarray) -> None:
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)

    def __len__(self) -> int:
        return self._index.ntotal

    def search(self, query: np.ndarray, k: int, *, exhaustive: bool = False) -> tuple[np.ndarray, np.ndarray]:
        return self._index.search(np.ascontiguousarray(query, np.float32), min(k, len(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """An index with at least ``max(BATCHES)`` plans for it."""

    name: str
    index: ItemIndex
    exact: ExactIndex
    overfetch: float
    inverse_temperature: float
    plans: Sequence[RetrievalPlan]


def run(options: Options, progress: Progress) -> Result:
    faiss.omp_set_num_threads(options.threads)
    rows: list[Row] = []
    floors: dict[int, Floor] = {}
    for N in NUM_ITEMS[:1] if options.quick else NUM_ITEMS:
        progress(f"preparing N={N}")
        workload = release_workload(options, N) if options.release else synthetic_workload(options, N)
        index = workload.index
        V, D = len(index), index.width
        floor = floors.setdefault(V * D, read_floor(V * D * 4))
        share = index.nprobe / index.nlist
        for B in BATCHES:
            plans = workload.plans[:B]
            M = sum(len(plan.quota) for plan in plans)
            progress(f"N={N} B={B}: {M} embeddings")
            case: dict[str, Value] = {"vectors": workload.name, "N": N, "B": B, "M": M}
            timings = time_together(_functions(workload, plans), seconds=options.seconds)
            scanned = {"retrieve": share, "· lookup": share, BASELINE: 1.0}
            least = {what: floor.milliseconds(M * part * V * D * 4) for what, part in scanned.items()}
            more = {"retrieve": {f"recall@{N}": recall(workload, plans)}, BASELINE: {f"recall@{N}": 1.0}}
            rows += compare(case, timings, BASELINE, floor_ms=least, more=more)
    settings = {
        "V": V, "D": D, "nlist": index.nlist, "nprobe": index.nprobe, "overfetch": workload.overfetch,
        "threads": options.threads,
    }  # fmt: skip
    return Result(benchmark="retrieval", baseline=BASELINE, settings=settings, floors=list(floors.values()), rows=rows)


def recall(workload: Workload, plans: Sequence[RetrievalPlan]) -> float:
    """The share of the items found by brute force that the index finds too, averaged over the plans."""
    excluded = [NOTHING] * len(plans)
    merge = MergeByMixture(ItemSoftmax(workload.index, workload.inverse_temperature))
    found = retrieve(workload.index, plans, excluded, overfetch=workload.overfetch, merge=merge)
    truth = retrieve(workload.exact, plans, excluded, overfetch=workload.overfetch, merge=merge)  # type: ignore[arg-type]
    return float(np.mean([np.isin(t.item_row, f.item_row).mean() for t, f in zip(truth, found, strict=True)]))


def _functions(workload: Workload, plans: Sequence[RetrievalPlan]) -> dict[str, Callable[[], object]]:
    index, exact, overfetch = workload.index, workload.exact, workload.overfetch
    excluded = [NOTHING] * len(plans)
    queries = np.concatenate([plan.embedding for plan in plans])
    depths = [int(np.ceil(plan.quota.max() * overfetch)) for plan in plans]
    candidates = [index.search(plan.embedding, depth) for plan, depth in zip(plans, depths, strict=True)]

    merge = MergeByMixture(ItemSoftmax(index, workload.inverse_temperature))

    def merge_all(rule: MergeRule) -> list[RankedItems]:
        return [rule(plan, *found, NOTHING) for plan, found in zip(plans, candidates, strict=True)]

    return {
        "retrieve": lambda: retrieve(index, plans, excluded, overfetch=overfetch, merge=merge),
        "· lookup": lambda: index.search(queries, max(depths)),
        "· merge": lambda: merge_all(merge),
        "· merge by quota": lambda: merge_all(merge_by_quota),
        BASELINE: lambda: retrieve(exact, plans, excluded, overfetch=overfetch, merge=merge),  # type: ignore[arg-type]
    }


def synthetic_workload(options: Options, N: int, seed: int = 0) -> Workload:
    """Clustered unit vectors, and plans whose embeddings lie near items, with the quotas of an even budget."""
    random = np.random.default_rng(seed)
    V = SYNTHETIC_ITEMS // 10 if options.quick else SYNTHETIC_ITEMS
    centre = random.normal(size=(CLUSTERS, SYNTHETIC_WIDTH))
    vectors = _unit(centre[random.integers(0, CLUSTERS, V)] + 0.5 * random.normal(size=(V, SYNTHETIC_WIDTH)))
    outcome = np.arange(PLAN_EMBEDDINGS, dtype=np.int32) * PLAN_OUTCOMES // PLAN_EMBEDDINGS
    plans = []
    for _ in range(max(BATCHES)):
        near = vectors[random.integers(0, V, PLAN_EMBEDDINGS)]
        embedding = _unit(near + 0.5 * random.normal(size=near.shape) / SYNTHETIC_WIDTH**0.5)
        quota = np.diff(np.linspace(0, N, PLAN_EMBEDDINGS + 1).astype(np.int32))
        plans.append(RetrievalPlan(embedding=embedding, outcome=outcome, quota=quota))
    index = ItemIndex.build(vectors)
    index.calibrate(np.concatenate([plan.embedding for plan in plans]), RECALL_DEPTH, recall=RECALL_TARGET)
    return Workload(name="clustered", index=index, exact=ExactIndex(vectors), overfetch=OVERFETCH,
                    inverse_temperature=INVERSE_TEMPERATURE, plans=plans)  # fmt: skip


def release_workload(options: Options, N: int) -> Workload:
    """The index of a release, and the plans that its stages make for the first users of its signals."""
    release = options.prepared.release
    manifest = release.manifest
    pipeline = Pipeline(options.prepared.parameters(realtime=None, threads=options.threads))
    histories = iter_histories(options.prepared.signals / "sequences")
    users = [user for user, _ in itertools.islice(histories, max(BATCHES))]
    N = min(N, manifest.generation.max_num_items, len(release.index))
    known = pipeline.run([request_tensors(user, N, manifest.dataset) for user in users], until=GENERATOR)
    plans = [
        RetrievalPlan(embedding=k["embedding"], outcome=k["embedding_outcome"], quota=k["embedding_quota"])
        for k in known
    ]
    vectors = release.index.reconstruct(np.arange(len(release.index)))
    return Workload(
        name=manifest.dataset.name,
        index=release.index,
        exact=ExactIndex(vectors),
        overfetch=manifest.generation.overfetch,
        inverse_temperature=manifest.generation.inverse_temperature,
        plans=plans,
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
