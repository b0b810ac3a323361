"""From histories of different lengths to one padded batch, for training and for the generator stage alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pinrec_core.history import History
from pinrec_core.model.sequence_model import HistoryBatch


def collate(
    histories: Sequence[History],
    id_embedding: Tensor | None = None,
    *,
    request_surface: Sequence[int] | None = None,
    request_time: Sequence[int] | None = None,
) -> HistoryBatch:
    """B histories and their ID embeddings ``[B, T, I]`` → a batch on the device of the ID embeddings.

    T is the length of the longest history. Without ID embeddings the batch holds empty ones, as in training, where the
    objective looks them up. The start token has the surface and time of the first interaction, and for an empty history
    those of the request.
    """
    start_surface = [
        int(h.surface[0]) if len(h) else request_surface[b] if request_surface else 0 for b, h in enumerate(histories)
    ]
    start_time = [
        int(h.timestamp[0]) if len(h) else request_time[b] if request_time else 0 for b, h in enumerate(histories)
    ]
    if id_embedding is None:
        id_embedding = torch.empty(len(histories), max(map(len, histories)), 0)
    return HistoryBatch(
        feature=pad([h.feature for h in histories]),
        scale=pad([h.scale for h in histories]),
        id_embedding=id_embedding,
        item_type=pad([h.item_type for h in histories]).long(),
        surface=pad([h.surface for h in histories]).long(),
        timestamp=pad([h.timestamp for h in histories]),
        length=torch.tensor([len(h) for h in histories]),
        start_surface=torch.tensor(start_surface),
        start_timestamp=torch.tensor(start_time),
    ).to(id_embedding.device)


def pad(arrays: Sequence[np.ndarray], fill: int = 0) -> Tensor:
    """B arrays ``[T_b, ...]`` → ``[B, T, ...]``, padded on the right."""
    T = max(len(a) for a in arrays)
    padded = np.full((len(arrays), T, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)
