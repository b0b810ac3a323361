"""The ID embedder stage: keys → ID embeddings from the release's packed tables, on CPU (``contract.ID_EMBEDDER``).

All keys of a batch go through the tables in one call. Keys are not made distinct first: finding the duplicates costs
more than looking them up again, since a row that was just read is in the cache. The embeddings are FP16, in which they
travel to the generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pinrec_core import limits
from pinrec_core.errors import PinRecError
from pinrec_core.release.format import Release
from pinrec_core.representations.id_tables import RowFormat
from pinrec_core.stages.base import StageParameters, Tensors


class IdEmbedderStage:
    """Holds the hashed ID tables of one release."""

    def __init__(self, parameters: StageParameters) -> None:
        # `pinrec serve` compared the checksum before it started this process, and each process that compares it again
        # has to read all tables.
        release = Release.open(parameters.release_folder)
        self.tables = release.load_id_embedder(checked=False)
        # An ensemble elsewhere sends the keys of a whole batch in one request.
        self.most_keys = limits.BATCH * release.manifest.model.max_history
        self.tables.populate()
        if self.tables.row_format is RowFormat.INT8:
            import torch  # converts INT8 rows; imported here, so that the first request does not wait for it

            torch.set_num_threads(parameters.threads)

    def parse(self, tensors: Tensors) -> np.ndarray:
        keys = tensors["history_item_key"]
        limits.HISTORY.check(len(keys), "history_item_key", self.most_keys)
        return keys

    def run(self, rows: Sequence[np.ndarray]) -> Sequence[Tensors | PinRecError]:
        embedding = self.tables.embed(np.concatenate(rows))
        ends = np.cumsum([len(row) for row in rows])
        return [{"history_id_embedding": part} for part in np.split(embedding, ends[:-1])]
