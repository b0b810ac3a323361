"""From histories of different lengths to one padded batch, for training. Serving packs them (``packed_histories``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pinrec_core.history import History
from pinrec_core.model.sequence_model import HistoryBatch


def collate(histories: Sequence[History]) -> HistoryBatch:
    """B histories → a batch of T positions, as many as the longest has, on the CPU.

    It holds no ID embeddings: the objective looks them up. The start token has the surface and time of the first
    interaction, and 0 in an empty history.
    """
    return HistoryBatch(
        feature=pad([h.feature for h in histories]),
        scale=pad([h.scale for h in histories]),
        id_embedding=torch.empty(len(histories), max(map(len, histories)), 0),
        item_type=pad([h.item_type for h in histories]).long(),
        surface=pad([h.surface for h in histories]).long(),
        timestamp=pad([h.timestamp for h in histories]),
        length=torch.tensor([len(h) for h in histories]),
        start_surface=torch.tensor([int(h.surface[0]) if len(h) else 0 for h in histories]),
        start_timestamp=torch.tensor([int(h.timestamp[0]) if len(h) else 0 for h in histories]),
    )


def pad(arrays: Sequence[np.ndarray], fill: int = 0) -> Tensor:
    """B arrays ``[T_b, ...]`` → ``[B, T, ...]``, padded on the right."""
    T = max(len(a) for a in arrays)
    padded = np.full((len(arrays), T, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)
