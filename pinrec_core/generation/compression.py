"""Compression (PinRec, generation): an embedding merges into an earlier kept one that is near enough.

Outcomes are compressed independently. ``compress`` decides for all requests and outcomes at once.
``compress_reference`` is the definition, one request and one outcome at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def compress(embedding: Tensor, threshold: float, weight: Tensor | None = None) -> Tensor:
    """Unit embeddings ``[B, O, n, D]`` in generation order → float64 weights ``[B, O, n]``.

    An embedding merges into the most similar kept one whose cosine exceeds ``threshold``, and its weight is then 0. A
    kept embedding has its own ``weight``, ``[n]`` above 0 and by default 1 each, plus that of all that merged into it.
    """
    n = embedding.shape[2]
    embedding = embedding.float()  # FP16 from a GPU: its cosines near 1 are too coarse for a threshold there
    cosine = embedding @ embedding.transpose(-1, -2)
    own = torch.ones(n, dtype=torch.float64, device=embedding.device) if weight is None else weight
    # On the host a few rounds over bits are fastest. An accelerator would have to wait for the host after each.
    return _by_rounds(cosine, threshold, own) if cosine.device.type == "cpu" else _by_walking(cosine, threshold, own)


def _by_walking(cosine: Tensor, threshold: float, own: Tensor) -> Tensor:
    """Decide one embedding after the other, for all requests and outcomes at once: n steps of fixed shapes."""
    B, O, n, _ = cosine.shape
    kept = own.repeat(B, O, 1)
    for i in range(1, n):
        to_kept = cosine[:, :, i, :i].masked_fill(kept[:, :, :i] == 0, -torch.inf)
        best, nearest = to_kept.max(dim=-1)
        merged = torch.where(best > threshold, own[i], 0.0)
        kept[:, :, :i].scatter_add_(2, nearest.unsqueeze(-1), merged.unsqueeze(-1))
        kept[:, :, i] -= merged
    return kept


def _by_rounds(cosine: Tensor, threshold: float, own: Tensor) -> Tensor:
    """Decide all embeddings at once, and again until nothing changes.

    An embedding is kept if no kept one before it is near. After round r the first r decisions are right whatever the
    start, so there is one fixed point, and it is reached in at most n rounds. Usually a few are enough.
    """
    B, O, n, _ = cosine.shape
    similar = cosine.view(B * O, n, n).numpy()
    earlier = np.tri(n, k=-1, dtype=bool)
    near = _bits(similar > threshold) & _bits(earlier)[:, None]
    kept, before = np.ones((B * O, n), bool), None
    while before is None or not np.array_equal(kept, before):
        before = kept
        kept = np.bitwise_or.reduce(near & _bits(before)[:, :, None]) == 0
    group, position = np.nonzero(~kept)
    among_kept = np.where(kept[group] & earlier[position], similar[group, position], -np.inf)
    nearest = among_kept.argmax(axis=-1)  # NumPy's is ten times as fast as torch's
    weight = torch.where(torch.from_numpy(kept), own, 0.0)
    weight.view(-1).scatter_add_(0, torch.from_numpy(group * n + nearest), own[torch.from_numpy(position)])
    return weight.view(B, O, n)


def _bits(flags: np.ndarray) -> np.ndarray:
    """bool ``[..., n]`` → uint64 ``[n/64 rounded up, ...]``: words first, so that they are combined in long loops."""
    packed = np.packbits(flags, axis=-1)
    missing = -packed.shape[-1] % 8
    whole = np.concatenate([packed, np.zeros((*packed.shape[:-1], missing), np.uint8)], axis=-1)
    return np.ascontiguousarray(np.moveaxis(whole.view(np.uint64), -1, 0))


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
