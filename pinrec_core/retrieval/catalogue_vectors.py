"""The catalogue in item space: what a model makes of every item, which is what the index holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.model.sequence_model import SequenceModel


@torch.inference_mode()
def represent_catalogue(
    model: SequenceModel,
    id_embedder: Callable[[Tensor], Tensor],
    catalogue: ItemCatalogue,
    rows: np.ndarray | None = None,
    chunk: int = 16384,
) -> np.ndarray:
    """Item representations of catalogue rows (all by default), float32 ``[V, D]``, made as serving makes history's:
    the ID embedding passes through FP16. In chunks: memory beyond the result is bounded."""
    rows = np.arange(len(catalogue)) if rows is None else rows
    device = model.start_token.device
    made = np.empty((len(rows), model.config.item_width), np.float32)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        feature, scale = torch.from_numpy(catalogue.feature[part]), torch.from_numpy(catalogue.scale[part])
        id_embedding = (
            id_embedder(torch.from_numpy(catalogue.item_key[part])).half().to(device, model.start_token.dtype)
        )
        pins = model.represent_pins(feature.to(device), scale.to(device), id_embedding)
        made[start : start + chunk] = pins.float().cpu().numpy()  # the index lives on the host
    return made
