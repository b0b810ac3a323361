"""Compression (PinRec, generation): an embedding merges into an earlier kept one that is near enough.

Outcomes are compressed independently. ``compress`` walks the embeddings of all requests and outcomes at once;
``compress_reference`` is the definition, one request and one outcome at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compress(embedding: Tensor, threshold: float) -> Tensor:
    """Unit embeddings ``[B, O, n, D]`` in generation order → int64 counts ``[B, O, n]``.

    A count of 0 says merged away; a kept embedding counts itself and all that merged into it. An embedding merges
    into the most similar kept one whose cosine exceeds ``threshold``.
    """
    B, O, n, _ = embedding.shape
    embedding = embedding.float()  # FP16 from a GPU: its cosines near 1 are too coarse for a threshold there
    cosine = embedding @ embedding.transpose(-1, -2)
    count = torch.ones(B, O, n, dtype=torch.int64, device=embedding.device)
    for i in range(1, n):
        to_kept = cosine[:, :, i, :i].masked_fill(count[:, :, :i] == 0, -torch.inf)
        best, nearest = to_kept.max(dim=-1)
        merges = (best > threshold).long()
        count[:, :, :i].scatter_add_(2, nearest.unsqueeze(-1), merges.unsqueeze(-1))
        count[:, :, i] -= merges
    return count


def compress_reference(embedding: Tensor, threshold: float) -> Tensor:
    """The plain twin of ``compress``, same signature."""
    B, O, n, _ = embedding.shape
    count = torch.zeros(B, O, n, dtype=torch.int64)
    for b in range(B):
        for o in range(O):
            kept: list[int] = []
            for i in range(n):
                cosine = {k: float(embedding[b, o, i] @ embedding[b, o, k]) for k in kept}
                nearest = max(cosine, key=cosine.__getitem__, default=None)
                if nearest is not None and cosine[nearest] > threshold:
                    count[b, o, nearest] += 1
                else:
                    kept.append(i)
                    count[b, o, i] = 1
    return count


def compression_ratio(count: Tensor) -> float:
    """Generated embeddings per kept one, over all requests and outcomes."""
    return count.numel() / max(1, int((count > 0).sum()))
