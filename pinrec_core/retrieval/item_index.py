"""The item index: Faiss IVF with an HNSW coarse quantiser, inner product (PinRec, serving). Rows are catalogue rows."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from pinrec_core.errors import ReleaseError

HNSW_NEIGHBOURS = 32
POINTS_PER_LIST = 39
"""Fewest training points per inverted list that Faiss's k-means asks for."""


class ItemIndex:
    """Search by inner product over V unit vectors; ``reconstruct`` gives the stored vectors back."""

    def __init__(self, index: faiss.IndexIVFFlat, *, nprobe: int) -> None:
        self._index = index
        self._index.nprobe = nprobe
        if index.direct_map.type == faiss.DirectMap.NoMap:
            index.make_direct_map()

    @staticmethod
    def build(vectors: np.ndarray, *, nprobe: int = 8) -> ItemIndex:
        """float32 ``[V, D]`` → an index with about 4·√V lists."""
        V, D = vectors.shape
        nlist = int(max(1, min(4 * V**0.5, V // POINTS_PER_LIST)))
        index = faiss.index_factory(D, f"IVF{nlist}_HNSW{HNSW_NEIGHBOURS},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        return ItemIndex(index, nprobe=nprobe)

    @staticmethod
    def read(path: Path, *, nprobe: int) -> ItemIndex:
        try:
            return ItemIndex(faiss.read_index(str(path)), nprobe=nprobe)
        except RuntimeError as error:
            raise ReleaseError(f"{path}: not a readable Faiss index") from error

    def write(self, path: Path) -> None:
        faiss.write_index(self._index, str(path))

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def nlist(self) -> int:
        return self._index.nlist

    @property
    def nprobe(self) -> int:
        return self._index.nprobe

    @property
    def width(self) -> int:
        return self._index.d

    def search(self, query: np.ndarray, k: int, *, exhaustive: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """float32 ``[n, D]`` → scores float32 and rows int64, ``[n, k]`` each, best first; row −1 where lists ran out.

        ``exhaustive`` visits every list: the result is then exact and holds ``min(k, V)`` rows.
        """
        k = min(k, len(self))
        parameters = faiss.SearchParametersIVF(nprobe=self.nlist if exhaustive else self.nprobe)
        if exhaustive:  # the coarse search must not lose a list either
            parameters.quantizer_params = faiss.SearchParametersHNSW(efSearch=2 * self.nlist)
        return self._index.search(np.ascontiguousarray(query, np.float32), k, params=parameters)

    def reconstruct(self, rows: np.ndarray) -> np.ndarray:
        """Stored vectors of rows, float32 ``[n, D]``."""
        return self._index.reconstruct_batch(np.ascontiguousarray(rows, np.int64))

    def calibrate(self, query: np.ndarray, k: int, *, recall: float) -> tuple[int, float]:
        """Set the smallest power-of-two nprobe that reaches ``recall``@k against brute force on ``query`` ``[n, D]``.

        → (nprobe, the recall it reaches).
        """
        k = min(k, len(self))
        exact = faiss.knn(np.ascontiguousarray(query, np.float32), self.reconstruct(np.arange(len(self))), k,
                          metric=faiss.METRIC_INNER_PRODUCT)[1]  # fmt: skip
        reached = 0.0
        nprobe = 1
        while True:
            self._index.nprobe = min(nprobe, self.nlist)
            found = self.search(query, k)[1]
            reached = float(np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]))
            if reached >= recall or nprobe >= self.nlist:
                return self.nprobe, reached
            nprobe *= 2
