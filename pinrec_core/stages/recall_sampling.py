"""How many of the best items the index finds, measured on a few of the embeddings that are looked up in serving.

A release says which recall its index was calibrated for. What requests ask may drift away from what it was calibrated
on, so one embedding of every so many requests is also searched exactly, by a thread that rests most of the time.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator

import faiss
import numpy as np

from pinrec_core.retrieval.exact_search import Block, exact_top_k
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.stages.metrics import RECALL_FOUND, RECALL_SKIPPED, RECALL_WANTED, Metrics

SHARE = 0.05
"""Of the time of one core, at most: the thread rests after each block of the catalogue.

It has the priority of all others. With a lower one it would be stopped on a busy machine while it holds Python's lock,
and requests would wait for it (88 ms were seen).
"""


class RecallSampler:
    """Takes an embedding of one in ``every`` requests; 0 takes none. ``depth`` is the k of recall@k."""

    def __init__(self, index: ItemIndex, *, depth: int, every: int, metrics: Metrics) -> None:
        self._every = every
        self._metrics = metrics
        self._requests = 0
        self._next: queue.Queue[np.ndarray] = queue.Queue(maxsize=1)
        stop = threading.Event()
        weakref.finalize(self, stop.set)
        if every:
            arguments = (self._next, stop, index, depth, metrics)
            threading.Thread(target=_search, args=arguments, name="recall", daemon=True).start()

    def offer(self, embedding: np.ndarray) -> None:
        """The embeddings of a request, float32 ``[M, D]``, from which one may be taken. Never waits."""
        if not self._every:
            return
        self._requests += 1
        if self._requests % self._every:
            return
        chosen = (self._requests // self._every) % len(embedding)  # all of a request's in turn
        try:
            self._next.put_nowait(embedding[chosen : chosen + 1].copy())
        except queue.Full:
            self._metrics.record(RECALL_SKIPPED)


def _search(
    offered: queue.Queue[np.ndarray], stop: threading.Event, index: ItemIndex, depth: int, metrics: Metrics
) -> None:
    faiss.omp_set_num_threads(1)  # of this thread alone
    while not stop.is_set():
        try:
            embedding = offered.get(timeout=1.0)
        except queue.Empty:
            continue
        exact = exact_top_k(embedding, _with_rests(index.blocks(), stop), depth)
        found = index.search(embedding, depth)[1]
        if not stop.is_set():
            metrics.record(RECALL_WANTED, exact.size)
            metrics.record(RECALL_FOUND, int(np.isin(exact, found).sum()))


def _with_rests(blocks: Iterable[Block], stop: threading.Event) -> Iterator[Block]:
    """The blocks. Before each further one the thread rests, in proportion to what reading and searching the last took;
    after ``stop`` there are no more."""
    began = time.monotonic()
    for block in blocks:
        yield block
        if stop.wait((time.monotonic() - began) * (1 / SHARE - 1)):
            return
        began = time.monotonic()
