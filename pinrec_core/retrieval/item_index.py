"""The item index: Faiss, inner product, rows are catalogue rows (PinRec, serving).

A small catalogue is searched exactly, which is then cheaper than to choose what not to search. A larger one is in
inverted lists (IVF), whose centroids an HNSW graph finds, and its vectors are bfloat16: half of the bytes to read at
the same recall. That graph's own search stops by its ``efSearch``, however many lists are asked for, so ``efSearch``
follows nprobe.

The vectors themselves lie beside the index in the order of their rows, in the format in which they are searched. A
merge needs many of them, and to pick them out of the lists costs more than the product that they are for. Both files
are mapped into memory: the instances of a server share their pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np

from pinrec_core.errors import ReleaseError
from pinrec_core.retrieval.exact_search import BLOCK_ITEMS, Block, exact_top_k, recall

FLAT_ITEMS = 10_000
"""The largest catalogue that is searched exactly."""
HNSW_NEIGHBOURS = 32
EF_CONSTRUCTION = 200  # at Faiss's 40, the graph over the centroids misses near lists at any efSearch
EF_PER_LIST = 2  # efSearch of the coarse search, for each list that is asked for
POINTS_PER_LIST = 39
"""Fewest training points per inverted list that Faiss's k-means asks for."""
TRAINING_POINTS_PER_LIST = 64  # of a larger catalogue k-means sees a sample of so many
TRAINING_ITERATIONS = 8
PROBED_SHARE = 0.5
ADDED_AT_ONCE = 65_536


class ItemIndex:
    """Search by inner product over V vectors of width D.

    ``vectors`` ``[V, D]`` are what is searched: float32, or the bits of bfloat16 as uint16.
    """

    def __init__(self, index: faiss.Index, vectors: np.ndarray, *, nprobe: int = 1) -> None:
        self._index = index
        self._vectors = vectors
        self._lists = index if isinstance(index, faiss.IndexIVF) else None
        self.nprobe = min(nprobe, self.nlist)
        if self._lists is not None:
            self._lists.nprobe = self.nlist  # of an exhaustive search only: any other says how many lists it visits

    @staticmethod
    def build(vectors: np.ndarray, *, nprobe: int = 8, flat_items: int = FLAT_ITEMS) -> ItemIndex:
        """float32 ``[V, D]`` → an exact index up to ``flat_items``, and one of about 4·√V inverted lists above."""
        V, D = vectors.shape
        if flat_items >= V:
            index: faiss.Index = faiss.IndexFlatIP(D)
        else:
            nlist = int(max(1, min(4 * V**0.5, V // POINTS_PER_LIST)))
            index = faiss.index_factory(D, f"IVF{nlist}_HNSW{HNSW_NEIGHBOURS},SQbf16", faiss.METRIC_INNER_PRODUCT)
            index.by_residual = False  # the vectors themselves, as bfloat16
            faiss.downcast_index(index.quantizer).hnsw.efConstruction = EF_CONSTRUCTION
            index.cp.niter = TRAINING_ITERATIONS
            index.cp.max_points_per_centroid = TRAINING_POINTS_PER_LIST
            index.train(vectors)  # of more points than that, Faiss draws a sample
        for start in range(0, V, ADDED_AT_ONCE):
            index.add(vectors[start : start + ADDED_AT_ONCE])
        return ItemIndex(index, vectors if flat_items >= V else _bfloat16_bits(vectors), nprobe=nprobe)

    @staticmethod
    def read(path: Path, vectors_path: Path, *, nprobe: int) -> ItemIndex:
        """Map what ``write`` wrote. Raises ``ReleaseError`` for files that are not an index and its vectors."""
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ReleaseError(f"{path}: not a readable Faiss index") from error
        try:
            vectors = np.load(vectors_path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{vectors_path}: not a readable array of item vectors") from error
        expected, format_ = (index.ntotal, index.d), np.float32 if isinstance(index, faiss.IndexFlat) else np.uint16
        if vectors.shape != expected or vectors.dtype != format_:
            raise ReleaseError(
                f"{vectors_path}: {vectors.dtype} {list(vectors.shape)}, expected {np.dtype(format_)} "
                f"{list(expected)}, as in {path.name}"
            )
        return ItemIndex(index, np.asarray(vectors), nprobe=nprobe)

    def write(self, path: Path, vectors_path: Path) -> None:
        faiss.write_index(self._index, str(path))
        np.save(vectors_path, self._vectors, allow_pickle=False)

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def structure(self) -> str:
        """``IVF_HNSW``, or ``FLAT`` for an index that is searched exactly."""
        return "FLAT" if self._lists is None else "IVF_HNSW"

    @property
    def nlist(self) -> int:
        """The number of inverted lists; an exact index is one list, which is always searched."""
        return 1 if self._lists is None else self._lists.nlist

    @property
    def width(self) -> int:
        return self._index.d

    def search(
        self, query: np.ndarray, k: int, *, widen: int = 1, exhaustive: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """float32 ``[n, D]`` → scores float32 and rows int64, ``[n, k]`` each, best first; row −1 where lists ran out.

        ``widen`` visits that many times as many lists. ``exhaustive`` visits every list: the result is then exact and
        holds ``min(k, V)`` rows.
        """
        k = min(k, len(self))
        query = np.ascontiguousarray(query, np.float32)
        if self._lists is None:
            return self._index.search(query, k)
        nprobe = min(self.nprobe * widen, self.nlist)
        if not exhaustive and nprobe < self.nlist:
            coarse = faiss.SearchParametersHNSW(efSearch=EF_PER_LIST * nprobe)
            parameters = faiss.SearchParametersIVF(nprobe=nprobe, quantizer_params=coarse)
            return self._index.search(query, k, params=parameters)
        # Every list by its number: the graph over the centroids does not promise to reach all of them.
        every = np.broadcast_to(np.arange(self.nlist), (len(query), self.nlist)).copy()
        return self._lists.search_preassigned(query, k, every, np.zeros(every.shape, np.float32))

    def blocks(self) -> Iterator[Block]:
        """All vectors with their rows, each row once, some ten thousand at a time."""
        for start in range(0, len(self), BLOCK_ITEMS):
            rows = np.arange(start, min(start + BLOCK_ITEMS, len(self)))
            yield rows, _float32(self._vectors[start : start + BLOCK_ITEMS])

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of rows ``[n]`` as they are searched, float32 ``[n, D]``."""
        return _float32(self._vectors[rows])

    def disagreement(self, rows: np.ndarray) -> float:
        """By how much the scores of an exhaustive search for the vectors of ``rows`` differ from products with vectors.

        Rounding is 1e-6; of vectors that are not those of the index it is as large as the scores.
        """
        query = self.vectors_of(rows)
        score, found = self.search(query, 8, exhaustive=True)
        products = np.einsum("qd,qkd->qk", query, self.vectors_of(found))
        return float(np.abs(score - products).max(initial=0.0))

    def calibrate(self, query: np.ndarray, k: int, *, recall_target: float) -> float:
        """Set the least nprobe whose recall@k against exact search on ``query`` ``[n, D]`` is at least
        ``recall_target``, to about a tenth, or that of most lists worth probing. → The recall that it reaches.

        More than ``PROBED_SHARE`` of the lists are not tried: such an index is no faster than exact search.
        """
        k = min(k, len(self))
        exact = exact_top_k(query, self.blocks(), k)

        def reached(nprobe: int) -> float:
            self.nprobe = nprobe
            return recall(exact, self.search(query, k)[1])

        most = max(1, int(PROBED_SHARE * self.nlist))
        too_few, enough = 0, 1
        while reached(enough) < recall_target and enough < most:
            too_few, enough = enough, min(2 * enough, most)
        while enough - too_few > max(1, enough // 8):
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if reached(middle) >= recall_target else (middle, enough)
        return reached(enough)


def _bfloat16_bits(vectors: np.ndarray) -> np.ndarray:
    """float32 ``[V, D]`` → uint16, rounded to nearest, as Faiss rounds what it puts into its lists."""
    made = np.empty(vectors.shape, np.uint16)
    for start in range(0, len(vectors), ADDED_AT_ONCE):
        bits = np.ascontiguousarray(vectors[start : start + ADDED_AT_ONCE], np.float32).view(np.uint32)
        made[start : start + ADDED_AT_ONCE] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return made


def _float32(stored: np.ndarray) -> np.ndarray:
    """Vectors as they are stored → float32. A bfloat16 is the upper half of a float32."""
    if stored.dtype == np.float32:
        return stored
    return (stored.astype(np.uint32) << 16).view(np.float32)
