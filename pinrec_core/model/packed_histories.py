"""From histories of different lengths to one batch without padding, which is what generation reads.

The tokens of all histories lie behind each other, so that linear layers do no work for padding. Attention alone needs a
padded layout, and gets it from two index tensors. Training pads instead (``collate``), because its batches are full.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pinrec_core.history import History
from pinrec_core.model.decoder import PackedLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedHistories:
    """B histories as N = B + ΣT_b tokens: before the interactions of each there is a place for its start token.

    The features of that place are zeros. Its surface and time are those of the first interaction, or of the request
    where there is none.
    """

    feature: Tensor  # int8 [N, F]
    scale: Tensor  # float32 [N]
    id_embedding: Tensor  # float [N, I]
    item_type: Tensor  # int64 [N]
    surface: Tensor  # int64 [N]
    timestamp: Tensor  # int64 [N]
    previous_timestamp: Tensor  # int64 [N], of the token before; its own for a start token and the one behind it
    layout: PackedLayout

    def tensors(self) -> tuple[Tensor, ...]:
        """All of its tensors in the order of ``of``."""
        own = (self.feature, self.scale, self.id_embedding, self.item_type, self.surface, self.timestamp)
        layout = self.layout
        return (*own, self.previous_timestamp, layout.position, layout.token, layout.slot, layout.last)

    @staticmethod
    def of(*tensors: Tensor) -> PackedHistories:
        """The batch whose ``tensors()`` these are."""
        feature, scale, id_embedding, item_type, surface, timestamp, previous, position, token, slot, last = tensors
        return PackedHistories(
            feature=feature, scale=scale, id_embedding=id_embedding, item_type=item_type, surface=surface,
            timestamp=timestamp, previous_timestamp=previous,
            layout=PackedLayout(position=position, token=token, slot=slot, last=last),
        )  # fmt: skip

    def to(self, device: torch.device | str) -> PackedHistories:
        return PackedHistories.of(*(tensor.to(device, non_blocking=True) for tensor in self.tensors()))


def pack(
    histories: Sequence[History],
    id_embedding: Sequence[np.ndarray],
    *,
    request_surface: Sequence[int],
    request_time: Sequence[int],
) -> PackedHistories:
    """B histories and their ID embeddings (float ``[T_b, I]`` each) → a batch on the CPU."""
    tokens = np.array([len(history) + 1 for history in histories])
    N, P = int(tokens.sum()), int(tokens.max())
    end = np.cumsum(tokens)
    start = end - tokens
    interaction = np.ones(N, bool)
    interaction[start] = False
    position = np.arange(N) - np.repeat(start, tokens)

    def column(parts: Sequence[np.ndarray], dtype: type | None = None) -> np.ndarray:
        joined = np.concatenate(parts)
        packed = np.zeros((N, *joined.shape[1:]), dtype or joined.dtype)
        packed[interaction] = joined
        return packed

    surface = column([history.surface for history in histories], np.int64)
    timestamp = column([history.timestamp for history in histories], np.int64)
    previous = np.empty_like(timestamp)
    previous[1:] = timestamp[:-1]
    empty = tokens == 1
    first = np.minimum(start + 1, N - 1)
    surface[start] = np.where(empty, request_surface, surface[first])
    timestamp[start] = np.where(empty, request_time, timestamp[first])
    own = position <= 1
    previous[own] = timestamp[own]
    return PackedHistories(
        feature=torch.from_numpy(column([history.feature for history in histories])),
        scale=torch.from_numpy(column([history.scale for history in histories])),
        id_embedding=torch.from_numpy(column(id_embedding)),
        item_type=torch.from_numpy(column([history.item_type for history in histories], np.int64)),
        surface=torch.from_numpy(surface),
        timestamp=torch.from_numpy(timestamp),
        previous_timestamp=torch.from_numpy(previous),
        layout=PackedLayout(
            position=torch.from_numpy(position),
            token=torch.from_numpy(np.minimum(start[:, None] + np.arange(P), end[:, None] - 1)),
            slot=torch.from_numpy(np.repeat(np.arange(len(histories)) * P, tokens) + position),
            last=torch.from_numpy(end - 1),
        ),
    )
