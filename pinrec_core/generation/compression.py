"""Compression (PinRec, generation): an embedding merges into an earlier kept one that is near enough.

That the kept one then moves to the mean of all that merged is an addition to the paper: it serves more of the targets.

Outcomes are compressed independently. ``compress`` decides for all requests and outcomes at once.
``compress_reference`` is the definition, one request and one outcome at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pinrec_core.representations.item_embedder import unit_vectors

WORD = 32
"""The decisions that are bits of one int64 in ``by_fixed_steps``: fewer than 63, so that no sign gets in the way."""


def compress(embedding: Tensor, threshold: float, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Unit embeddings ``[B, O, n, D]`` in generation order → the same with those that merged, and their float64 weights
    ``[B, O, n]``.

    An embedding merges into the most similar kept one whose cosine exceeds ``threshold``, and its weight is then 0. A
    kept embedding has its own ``weight``, ``[n]`` above 0 and by default 1 each, plus that of all that merged into it,
    and becomes the direction of their weighted mean: it stands for all of them.
    """
    n = embedding.shape[2]
    single = embedding.float()  # FP16 from a GPU: its cosines near 1 are too coarse for a threshold there
    own = torch.ones(n, dtype=torch.float64, device=embedding.device) if weight is None else weight
    # On the host a few rounds over bits are fastest. An accelerator would have to wait for the host after each.
    merge = _by_rounds if single.device.type == "cpu" else by_fixed_steps
    merged, total = merge(single, threshold, own)
    return merged.to(embedding.dtype), total


def by_fixed_steps(embedding: Tensor, threshold: float, own: Tensor) -> tuple[Tensor, Tensor]:
    """Decide one embedding after the other, in steps that no data changes. As ``compress``, of float32.

    All that are near an embedding are bits of a few whole numbers, as are all that are kept so far. A decision is then
    some operations on one number per group, and a compiler makes a few kernels of all n decisions.
    """
    cosine = embedding @ embedding.mT
    B, O, n, _ = cosine.shape
    index = torch.arange(n, device=cosine.device)
    earlier = index < index.unsqueeze(1)  # [n, n], whether the second comes before the first
    bit = index % WORD
    near = ((cosine > threshold) & earlier).long() << bit
    words = [near[..., begin : begin + WORD].sum(-1) for begin in range(0, n, WORD)]  # each int64 [B, O, n]
    kept = [torch.zeros_like(word[..., 0]) for word in words]
    for i in range(n):
        blocking = words[0][..., i] & kept[0]
        for word, kept_word in zip(words[1 : i // WORD + 1], kept[1:], strict=False):
            blocking = blocking | (word[..., i] & kept_word)
        kept[i // WORD] = kept[i // WORD] | ((blocking == 0).long() << (i % WORD))
    parts = bit.split(WORD)
    is_kept = torch.cat([(w.unsqueeze(-1) >> p) & 1 for w, p in zip(kept, parts, strict=True)], dim=-1).bool()
    candidate = is_kept.unsqueeze(-2) & earlier
    nearest = cosine.masked_fill(~candidate, -torch.inf).argmax(dim=-1)
    joins = (nearest.unsqueeze(-1) == index) & ~is_kept.unsqueeze(-1)  # [B, O, n, n]: the first joins the second
    # A sum over a row of choices and not `scatter_add`, whose atomic additions come in another order each time.
    joined = torch.where(joins, own.unsqueeze(-1), 0.0)
    weight = torch.where(is_kept, own + joined.sum(-2), 0.0)
    total = own.float().unsqueeze(-1) * embedding + joined.float().mT @ embedding
    absorbed = joins.any(dim=-2).unsqueeze(-1)
    return torch.where(absorbed, unit_vectors(total, total.dtype), embedding), weight


def _by_rounds(embedding: Tensor, threshold: float, own: Tensor) -> tuple[Tensor, Tensor]:
    """Decide all embeddings at once, and again until nothing changes.

    An embedding is kept if no kept one before it is near. After round r the first r decisions are right whatever the
    start, so there is one fixed point, and it is reached in at most n rounds. Usually a few are enough.
    """
    B, O, n, D = embedding.shape
    cosine = embedding @ embedding.mT
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
    into, moved = torch.from_numpy(group * n + nearest), torch.from_numpy(group * n + position)
    weight = torch.where(torch.from_numpy(kept), own, 0.0)
    weight.view(-1).scatter_add_(0, into, own[torch.from_numpy(position)])
    vector = embedding.reshape(-1, D)
    absorbing, slot = into.unique(return_inverse=True)
    total = vector[absorbing] * own[absorbing % n].float().unsqueeze(1)
    total.index_add_(0, slot, vector[moved] * own[moved % n].float().unsqueeze(1))
    merged = vector.clone()
    merged[absorbing] = unit_vectors(total, total.dtype)
    return merged.view(B, O, n, D), weight.view(B, O, n)


def _bits(flags: np.ndarray) -> np.ndarray:
    """bool ``[..., n]`` → uint64 ``[n/64 rounded up, ...]``: words first, so that they are combined in long loops."""
    packed = np.packbits(flags, axis=-1)
    missing = -packed.shape[-1] % 8
    whole = np.concatenate([packed, np.zeros((*packed.shape[:-1], missing), np.uint8)], axis=-1)
    return np.ascontiguousarray(np.moveaxis(whole.view(np.uint64), -1, 0))


def compress_reference(embedding: Tensor, threshold: float, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The plain twin of ``compress``, same signature."""
    B, O, n, _ = embedding.shape
    own = [1.0] * n if weight is None else weight.tolist()
    weights, merged = torch.zeros(B, O, n, dtype=torch.float64), embedding.clone()
    for b in range(B):
        for o in range(O):
            members: dict[int, list[int]] = {}
            for i in range(n):
                cosine = {k: float(embedding[b, o, i] @ embedding[b, o, k]) for k in members}
                nearest = max(cosine, key=cosine.__getitem__, default=None)
                if nearest is not None and cosine[nearest] > threshold:
                    members[nearest].append(i)
                else:
                    members[i] = [i]
            for kept, group in members.items():
                weights[b, o, kept] = sum(own[i] for i in group)
                if len(group) > 1:
                    mean = torch.stack([own[i] * embedding[b, o, i] for i in group]).sum(0)
                    merged[b, o, kept] = unit_vectors(mean, mean.dtype)
    return merged, weights


def compression_ratio(weight: Tensor) -> float:
    """Generated embeddings per kept one, over all requests and outcomes, of what ``compress`` gives."""
    return weight.numel() / max(1, int((weight > 0).sum()))
