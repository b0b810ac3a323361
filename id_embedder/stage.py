"""The ID embedder stage: keys → ID embeddings from the release's TorchScript module, on CPU (``contract.ID_EMBEDDER``).

All keys of a batch go through the tables in one call. The embeddings are returned as FP16, which halves the bytes that
travel to the generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pinrec_core.errors import PinRecError
from pinrec_core.release.format import Release
from pinrec_core.stages.base import StageParameters, Tensors


class IdEmbedderStage:
    """Holds the hashed ID tables of one release."""

    def __init__(self, parameters: StageParameters) -> None:
        torch.set_num_threads(parameters.threads)
        self.module = Release.open(parameters.release_folder).load_id_embedder()

    def parse(self, tensors: Tensors) -> np.ndarray:
        return tensors["history_item_key"]

    @torch.inference_mode()
    def run(self, rows: Sequence[np.ndarray]) -> Sequence[Tensors | PinRecError]:
        keys = torch.from_numpy(np.concatenate(rows))
        embedding = self.module(keys).half().numpy()
        ends = np.cumsum([len(row) for row in rows])
        return [{"history_id_embedding": part} for part in np.split(embedding, ends[:-1])]
