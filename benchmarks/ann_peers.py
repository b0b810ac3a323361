"""Other libraries for approximate search by inner product, each over its settings from the cheapest to the best.

They are optional: ``pip install .[bench]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pinrec_core.retrieval.exact_search import recall

Search = Callable[[np.ndarray, int], np.ndarray]
"""Queries float32 ``[n, D]`` and k → rows ``[n, k]``."""

NEIGHBOURS, EF_CONSTRUCTION = 16, 100
EFFORTS = (128, 256, 512, 1024, 2048)
LEAVES_AND_REORDERED = ((64, 4), (128, 4), (256, 8), (512, 16), (1024, 32), (2000, 64))
"""Leaves that are searched, and how many times k candidates are scored again with the vectors themselves."""


def hnswlib_searches(vectors: np.ndarray, threads: int) -> Sequence[Search]:
    """hnswlib, by rising ``ef``. Raises ``ImportError``."""
    import hnswlib

    V, D = vectors.shape
    index = hnswlib.Index(space="ip", dim=D)
    index.init_index(max_elements=V, M=NEIGHBOURS, ef_construction=EF_CONSTRUCTION)
    index.set_num_threads(threads)
    index.add_items(vectors)

    def search(query: np.ndarray, k: int, ef: int) -> np.ndarray:
        index.set_ef(max(ef, k))
        return index.knn_query(query, k)[0].astype(np.int64)

    return [lambda query, k, ef=ef: search(query, k, ef) for ef in EFFORTS]


def usearch_searches(vectors: np.ndarray, threads: int) -> Sequence[Search]:
    """usearch, by rising ``expansion_search``. Raises ``ImportError``."""
    from usearch.index import Index

    V, D = vectors.shape
    index = Index(ndim=D, metric="ip", dtype="f32", connectivity=NEIGHBOURS, expansion_add=EF_CONSTRUCTION)
    index.add(np.arange(V), vectors, threads=threads)

    def search(query: np.ndarray, k: int, effort: int) -> np.ndarray:
        index.expansion_search = max(effort, k)
        return np.atleast_2d(index.search(query, k, threads=threads).keys).astype(np.int64)

    return [lambda query, k, effort=effort: search(query, k, effort) for effort in EFFORTS]


def scann_searches(vectors: np.ndarray, threads: int) -> Sequence[Search]:
    """scann-core, by a rising number of leaves. Raises ``ImportError``."""
    from scann import scann_ops_pybind

    V, _ = vectors.shape
    leaves = int(2 * V**0.5)
    index = (
        scann_ops_pybind.builder(vectors, 10, "dot_product")
        .tree(num_leaves=leaves, num_leaves_to_search=leaves, training_sample_size=min(V, 100 * leaves))
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(100)
        .set_n_training_threads(threads)
        .build()
    )

    def search(query: np.ndarray, k: int, searched: int, reordered: int) -> np.ndarray:
        return index.search_batched(
            query,
            final_num_neighbors=k,
            leaves_to_search=min(searched, leaves),
            pre_reorder_num_neighbors=reordered * k,
        )[0].astype(np.int64)

    return [lambda query, k, effort=effort: search(query, k, *effort) for effort in LEAVES_AND_REORDERED]


PEERS: Mapping[str, Callable[[np.ndarray, int], Sequence[Search]]] = {
    "hnswlib": hnswlib_searches,
    "usearch": usearch_searches,
    "scann-core": scann_searches,
}


def cheapest_at_recall(
    searches: Sequence[Search], queries: np.ndarray, exact: np.ndarray, target: float
) -> tuple[Search, float]:
    """The first of ``searches`` whose recall of ``exact`` ``[Q, k]`` is at least ``target``, or the last, and its
    recall."""
    reached = 0.0
    for search in searches:
        reached = recall(exact, search(queries, exact.shape[1]))
        if reached >= target:
            break
    return search, reached
