"""Retrieval: ``retrieve`` (index lookup, merge, top-up) against the bare Faiss search of the same queries, and the
index against other libraries at equal recall.

The bare search has the same nprobe, depth and threads; it takes turns with ``retrieve``, and every call of either has
the plans of other users, because a repeated query finds its lists in the cache. ``recall`` is the share of the items
that brute force would have returned. With a release, the index, nprobe and overfetch are those of the release, and its
generator makes the plans for its users. Without one, the vectors are clustered and the embeddings of each plan lie near
some of them. The other libraries (``pip install .[bench]``) build their graphs in minutes at a million items, so
``--quick`` leaves them out; one that is not installed is left out as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from benchmarks.ann_peers import PEERS, cheapest_at_recall
from benchmarks.floors import Floor, read_floor
from benchmarks.options import Options, Progress
from benchmarks.pipeline import Pipeline, request_tensors
from benchmarks.report import Result, Row, Value, compare
from benchmarks.timing import time_together
from pinrec_core.config.sections import GenerationConfig
from pinrec_core.contract import GENERATOR
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.release.calibration import INDEX_RECALL_TARGET
from pinrec_core.retrieval.exact_search import blocks_of, exact_top_k
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.item_softmax import ItemSoftmax
from pinrec_core.retrieval.lookup import PlanBatch, look_up
from pinrec_core.retrieval.merging import lookup_depth, retrieve
from pinrec_core.retrieval.mixture import MergeByMixture
from pinrec_core.stages.packing import decode_plan

BASELINE = "bare Faiss search"
BATCHES = (1, 16)
NUM_ITEMS = (100, 1000)
PLANS = 256
SYNTHETIC_ITEMS, SYNTHETIC_WIDTH, CLUSTERS = 100_000, 64, 1000
PLAN_EMBEDDINGS, PLAN_OUTCOMES = 12, 3
OVERFETCH = GenerationConfig().overfetch
INVERSE_TEMPERATURE = 20.0
CALIBRATION_QUERIES = 1024
NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """An index and plans for it, no two of the same user."""

    name: str
    index: ItemIndex
    overfetch: float
    inverse_temperature: float
    plans: Sequence[RetrievalPlan]

    @property
    def merge(self) -> MergeByMixture:
        return MergeByMixture(ItemSoftmax(self.index, self.inverse_temperature))

    def depth(self, plan: RetrievalPlan) -> int:
        return lookup_depth(plan, NOTHING, self.overfetch)

    @property
    def queries(self) -> np.ndarray:
        """The embeddings of all plans, float32 ``[M, D]``."""
        return np.concatenate([plan.embedding for plan in self.plans])

    @property
    def largest_depth(self) -> int:
        return max(map(self.depth, self.plans))

    def batches(self, B: int) -> Iterator[Sequence[RetrievalPlan]]:
        """Batches of B plans, over and over; each call of a timed function takes the next one."""
        parts = [self.plans[start : start + B] for start in range(0, len(self.plans) - B + 1, B)]
        return itertools.cycle(parts)


def run(options: Options, progress: Progress) -> Result:
    faiss.omp_set_num_threads(options.threads)
    rows: list[Row] = []
    floors: dict[int, Floor] = {}
    for N in NUM_ITEMS[:1] if options.quick else NUM_ITEMS:
        progress(f"preparing N={N}")
        workload = release_workload(options, N) if options.release else synthetic_workload(options, N)
        index = workload.index
        V, D = len(index), index.width
        floors.setdefault(V * D, read_floor(V * D * 4))
        for B in BATCHES:
            progress(f"N={N} B={B}")
            M = round(B * float(np.mean([len(plan.quota) for plan in workload.plans])))
            case: dict[str, Value] = {"vectors": workload.name, "N": N, "B": B, "M": M}
            timings = time_together(functions(workload, B), seconds=options.seconds)
            more: dict[str, dict[str, Value]] = {"retrieve": {f"recall@{N}": recall(workload, workload.plans[:B])}}
            rows += compare(case, timings, BASELINE, more=more)
        if not options.quick and N == NUM_ITEMS[0]:
            rows += peer_rows(workload, options, progress)
    settings = {
        "V": V, "D": D, "structure": index.structure, "nlist": index.nlist, "nprobe": index.nprobe,
        "overfetch": workload.overfetch, "threads": options.threads,
    }  # fmt: skip
    return Result(benchmark="retrieval", baseline=BASELINE, settings=settings, floors=list(floors.values()), rows=rows)


def recall(workload: Workload, plans: Sequence[RetrievalPlan]) -> float:
    """The share of the items found by exhaustive search that the index finds too, averaged over the plans."""
    excluded = [NOTHING] * len(plans)
    batch = PlanBatch.of(plans)
    depth = np.array([workload.depth(plan) for plan in plans])
    found = workload.merge(batch, look_up(workload.index, batch, depth), excluded)
    truth = workload.merge(batch, look_up(workload.index, batch, depth, exhaustive=True), excluded)
    return float(np.mean([np.isin(t.item_row, f.item_row).mean() for t, f in zip(truth, found, strict=True)]))


def functions(workload: Workload, B: int) -> dict[str, Callable[[], object]]:
    """What is timed on batches of B plans, by the name of its row."""
    index, merge = workload.index, workload.merge
    excluded = [NOTHING] * B
    searched, retrieved = workload.batches(B), workload.batches(B)
    plans = workload.plans[:B]
    batch = PlanBatch.of(plans)
    finds = look_up(index, batch, np.array([workload.depth(plan) for plan in plans]))

    def bare() -> object:
        plans = next(searched)
        queries = np.concatenate([plan.embedding for plan in plans])
        return index.search(queries, max(workload.depth(plan) for plan in plans))

    return {
        "retrieve": lambda: retrieve(
            index, next(retrieved), excluded, overfetch=workload.overfetch, merge=merge
        ),
        BASELINE: bare,
        "· merge": lambda: merge(batch, finds, excluded),
    }  # fmt: skip


def peer_rows(workload: Workload, options: Options, progress: Progress) -> list[Row]:
    """Bare searches of one request's queries by each library, at the cheapest setting that reaches the recall of the
    index; where none does, at its best, with the recall that it has."""
    index = workload.index
    queries = workload.queries[:CALIBRATION_QUERIES]
    depth = workload.largest_depth
    exact = exact_top_k(queries, index.blocks(), depth)
    vectors = index.vectors_of(np.arange(len(index)))
    parts = np.array_split(queries, max(1, len(queries) // len(workload.plans[0].quota)))
    case: dict[str, Value] = {"vectors": workload.name, "N": "lookup", "B": 1, "M": len(parts[0])}
    functions: dict[str, Callable[[], object]] = {}
    more: dict[str, dict[str, Value]] = {}
    for name, make in {BASELINE: lambda *_: index.search, **PEERS}.items():
        progress(f"building {name}")
        try:
            settings = [lambda q, k: index.search(q, k)[1]] if name == BASELINE else make(vectors, options.threads)
        except ImportError:
            progress(f"{name} is not installed: left out")
            continue
        search, reached = cheapest_at_recall(settings, queries, exact, INDEX_RECALL_TARGET)
        fresh = itertools.cycle(parts)
        functions[name] = lambda search=search, fresh=fresh: search(next(fresh), depth)
        more[name] = {"recall": reached}
    timings = time_together(functions, seconds=options.seconds)
    return compare(case, timings, BASELINE, more=more)


def synthetic_workload(options: Options, N: int, seed: int = 0) -> Workload:
    """Clustered unit vectors, and plans near them."""
    random = np.random.default_rng(seed)
    V = SYNTHETIC_ITEMS // 10 if options.quick else SYNTHETIC_ITEMS
    vectors = np.empty((V, SYNTHETIC_WIDTH), np.float32)
    fill_with_clusters(vectors, CLUSTERS, random)
    plans = plans_near(vectors, N, random)
    index = ItemIndex.build(vectors)
    workload = clustered_workload(index, plans)
    queries = workload.queries[:CALIBRATION_QUERIES]
    index.calibrate(queries, workload.largest_depth, recall_target=INDEX_RECALL_TARGET)
    return workload


def clustered_workload(index: ItemIndex, plans: Sequence[RetrievalPlan]) -> Workload:
    """``plans_near`` the vectors of ``index``."""
    return Workload(name="clustered", index=index, overfetch=OVERFETCH,
                    inverse_temperature=INVERSE_TEMPERATURE, plans=plans)  # fmt: skip


def fill_with_clusters(vectors: np.ndarray, clusters: int, random: np.random.Generator) -> None:
    """Fill float32 ``[V, D]`` with unit vectors around ``clusters`` centres, block by block."""
    centre = random.standard_normal((clusters, vectors.shape[1]), np.float32)
    for _, block in blocks_of(vectors):
        near = centre[random.integers(0, clusters, len(block))]
        block[:] = _unit(near + 0.5 * random.standard_normal(block.shape, np.float32))


def plans_near(vectors: np.ndarray, N: int, random: np.random.Generator) -> list[RetrievalPlan]:
    """Plans whose embeddings lie near items ``[V, D]``, with the quotas of an even budget of N items."""
    outcome = np.arange(PLAN_EMBEDDINGS, dtype=np.int32) * PLAN_OUTCOMES // PLAN_EMBEDDINGS
    quota = np.diff(np.linspace(0, N, PLAN_EMBEDDINGS + 1).astype(np.int32))
    plans = []
    for _ in range(PLANS):
        near = vectors[random.integers(0, len(vectors), PLAN_EMBEDDINGS)]
        embedding = _unit(near + 0.5 * random.normal(size=near.shape) / near.shape[1] ** 0.5)
        plans.append(RetrievalPlan(embedding=embedding, outcome=outcome, quota=quota))
    return plans


def release_workload(options: Options, N: int) -> Workload:
    """The index of a release, and the plans that its stages make for the first users of its signals."""
    release = options.prepared.release
    manifest = release.manifest
    pipeline = Pipeline(options.prepared.parameters(realtime=None, threads=options.threads))
    histories = iter_histories(options.prepared.signals / "sequences")
    users = [user for user, _ in itertools.islice(histories, PLANS)]
    N = min(N, manifest.generation.max_num_items, len(release.index))
    known = [
        row
        for start in range(0, len(users), max(BATCHES))
        for row in pipeline.run(
            [request_tensors(user, N, manifest.dataset) for user in users[start : start + max(BATCHES)]],
            until=GENERATOR,
        )
    ]
    return Workload(
        name=manifest.dataset.name,
        index=release.index,
        overfetch=manifest.generation.overfetch,
        inverse_temperature=manifest.generation.inverse_temperature,
        plans=[decode_plan(tensors["retrieval_plan"]) for tensors in known],
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
