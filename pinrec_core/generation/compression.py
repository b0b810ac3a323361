"""Compression (PinRec, generation): an embedding merges into an earlier kept one that is near enough.

Outcomes are compressed independently. ``compress`` walks the embeddings of all requests and outcomes at once;
``compress_reference`` is the definition, one request and one outcome at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compress(embedding: Tensor, threshold: float, weight: Tensor | None = None) -> Tensor:
    """Unit embeddings ``[B, O, n, D]`` in generation order → float64 weights ``[B, O, n]``.

    An embedding merges into the most similar kept one whose cosine exceeds ``threshold``, and its weight is then 0. A
    kept embedding has its own ``weight``, ``[n]`` above 0 and by default 1 each, plus that of all that merged into it.
    """
    B, O, n, _ = embedding.shape
    embedding = embedding.float()  # FP16 from a GPU: its cosines near 1 are too coarse for a threshold there
    cosine = embedding @ embedding.transpose(-1, -2)
    own = torch.ones(n, dtype=torch.float64, device=embedding.device) if weight is None else weight
    kept = own.repeat(B, O, 1)
    for i in range(1, n):
        to_kept = cosine[:, :, i, :i].masked_fill(kept[:, :, :i] == 0, -torch.inf)
        best, nearest = to_kept.max(dim=-1)
        merged = torch.where(best > threshold, own[i], 0.0)
        kept[:, :, :i].scatter_add_(2, nearest.unsqueeze(-1), merged.unsqueeze(-1))
        kept[:, :, i] -= merged
    return kept


def compress_reference(embedding: Tensor, threshold: float, weight: Tensor | None = None) -> Tensor:
    """The plain twin of ``compress``, same signature."""
    B, O, n, _ = embedding.shape
    own = [1.0] * n if weight is None else weight.tolist()
    weights = torch.zeros(B, O, n, dtype=torch.float64)
    for b in range(B):
        for o in range(O):
            kept: list[int] = []
            for i in range(n):
                cosine = {k: float(embedding[b, o, i] @ embedding[b, o, k]) for k in kept}
                nearest = max(cosine, key=cosine.__getitem__, default=None)
                if nearest is not None and cosine[nearest] > threshold:
                    weights[b, o, nearest] += own[i]
                else:
                    kept.append(i)
                    weights[b, o, i] = own[i]
    return weights


def compression_ratio(weight: Tensor) -> float:
    """Generated embeddings per kept one, over all requests and outcomes, of what ``compress`` gives."""
    return weight.numel() / max(1, int((weight > 0).sum()))
