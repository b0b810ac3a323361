"""The ID embedder stage where the tables are served elsewhere: each batch is one call with its distinct keys.

Keys are made distinct here, other than by the stage that holds the tables: an embedding that crosses the network costs
more than finding out that it was asked for already. This module does not know how the call is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pinrec_core import limits
from pinrec_core.errors import PinRecError
from pinrec_core.stages.base import START_SECONDS, StageParameters, Tensors


class Lookup(Protocol):
    """One call of the service. Raises ``ServerError`` when it is not answered within ``seconds``, or its deadline."""

    def __call__(self, tensors: Tensors, *, seconds: float | None = None) -> Tensors: ...


class RemoteIdEmbedderStage:
    """Passes the keys of a batch to ``lookup``: those of a request are at most ``max_history``.

    Raises ``ServerError`` when that does not serve this release now.
    """

    def __init__(self, lookup: Lookup, *, max_history: int) -> None:
        self._lookup = lookup
        self._max_history = max_history
        # Of no keys: it fails where the service has no such release, and says how wide an embedding is.
        self._nothing = self._embed(np.empty(0, np.int64), seconds=START_SECONDS)

    @staticmethod
    def open(lookup: Lookup, parameters: StageParameters) -> RemoteIdEmbedderStage:
        """The stage of one release, of which it reads the length of histories alone."""
        from pinrec_core.release.format import Release  # imported here because the stage with tables has no need of it

        manifest = Release.open(parameters.release_folder).manifest
        return RemoteIdEmbedderStage(lookup, max_history=manifest.model.max_history)

    def parse(self, tensors: Tensors) -> np.ndarray:
        keys = tensors["history_item_key"]
        # Checked here and not left to the service, which would refuse the whole batch for one request.
        limits.HISTORY.check(len(keys), "history_item_key", self._max_history)
        return keys

    def run(self, rows: Sequence[np.ndarray]) -> Sequence[Tensors | PinRecError]:
        """Raises ``ServerError`` when the service does not answer, unless all histories of the batch are empty."""
        distinct, position = np.unique(np.concatenate(rows), return_inverse=True)
        embedding = self._embed(distinct) if len(distinct) else self._nothing
        ends = np.cumsum([len(row) for row in rows])
        return [{"history_id_embedding": embedding[part]} for part in np.split(position, ends[:-1])]

    def _embed(self, keys: np.ndarray, *, seconds: float | None = None) -> np.ndarray:
        """int64 ``[n]`` → float16 ``[n, I]``."""
        return self._lookup({"history_item_key": keys}, seconds=seconds)["history_id_embedding"]
