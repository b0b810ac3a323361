"""Lookup of a plan's embeddings, choice of N items among what they find, and top-up (PinRec, generation).

Two rules choose. By *quota*, each embedding brings its own number of items, best first; an item that several find
belongs to the one that scores it highest. By *mixture*, quotas are weights: an item's score is its probability under
all of its request's embeddings together, so that what many of them agree on comes first. Under both, exactly N
distinct items come back, each outcome with exactly its share of the budget, as long as the index holds enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pinrec_core.config.sections import GenerationConfig, Merging
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.item_softmax import ItemSoftmax

DEEPER = 4
"""Factor by which a search that came up short is deepened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedItems:
    """The answer to one request, best score first."""

    item_row: np.ndarray  # int64 [N]
    score: np.ndarray  # float32 [N]: by quota, the inner product with its embedding; by mixture, the probability
    embedding: np.ndarray  # int32 [N], which of the plan's embeddings brought the item
    outcome: np.ndarray  # int32 [N], that embedding's outcome


MergeRule = Callable[[RetrievalPlan, np.ndarray, np.ndarray, np.ndarray], RankedItems]
"""(plan, scores ``[M, k]``, rows ``[M, k]`` with −1 for none, excluded rows ``[X]``) → at most N items."""


def retrieve(
    index: ItemIndex,
    plans: Sequence[RetrievalPlan],
    excluded: Sequence[np.ndarray],
    *,
    overfetch: float,
    merge: MergeRule,
) -> list[RankedItems]:
    """Answer a batch: one search for the embeddings of all requests, then each request's merge.

    ``excluded`` holds rows per request that must not come back (int64 ``[X]``).
    """
    depths = [_depth(plan, rows, overfetch) for plan, rows in zip(plans, excluded, strict=True)]
    score, row = index.search(np.concatenate([plan.embedding for plan in plans]), max(depths))
    ends = np.cumsum([len(plan.quota) for plan in plans])
    answers = []
    for plan, rows, depth, end in zip(plans, excluded, depths, ends, strict=True):
        # Cut to the request's own depth: a neighbour that looks deeper must not change what this one is answered.
        own = slice(end - len(plan.quota), end), slice(0, depth)
        answers.append(_merge_or_deepen(index, plan, rows, score[own], row[own], merge))
    return answers


def merge_rule(index: ItemIndex, config: GenerationConfig) -> MergeRule:
    """The rule that a release is configured with."""
    if config.merging is Merging.QUOTA:
        return merge_by_quota
    return MergeByMixture(ItemSoftmax(index, config.inverse_temperature))


def merge_by_quota(plan: RetrievalPlan, score: np.ndarray, row: np.ndarray, excluded: np.ndarray) -> RankedItems:
    """Candidates are taken best first. A first pass gives each embedding up to its quota; a second tops outcomes up
    that lost items to another embedding. May hold fewer than N items; never a repeat."""
    M, _ = row.shape
    embedding, column = np.nonzero((row >= 0) & ~np.isin(row, excluded))
    order = np.argsort(-score[embedding, column], kind="stable")
    embedding, column = embedding[order], column[order]
    # Lists, not arrays (which are on the host already): the passes below read single values, which numpy boxes slowly.
    candidates = list(zip(embedding.tolist(), row[embedding, column].tolist(), range(len(order)), strict=True))

    outcome_of = plan.outcome.tolist()
    left = plan.quota.tolist()
    wanted = np.bincount(plan.outcome, weights=plan.quota).astype(int).tolist()
    taken: dict[int, int] = {}  # row → position among the candidates
    missing = sum(left)
    for m, item_row, position in candidates:
        if not missing:
            break
        if left[m] and item_row not in taken:
            taken[item_row] = position
            left[m] -= 1
            wanted[outcome_of[m]] -= 1
            missing -= 1
    for m, item_row, position in candidates:
        if not missing:
            break
        if wanted[outcome_of[m]] and item_row not in taken:
            taken[item_row] = position
            wanted[outcome_of[m]] -= 1
            missing -= 1

    chosen = np.sort(np.fromiter(taken.values(), np.int64, len(taken)))  # positions are already in order of score
    embedding, column = embedding[chosen], column[chosen]
    return RankedItems(
        item_row=row[embedding, column],
        score=score[embedding, column],
        embedding=embedding.astype(np.int32),
        outcome=plan.outcome[embedding],
    )


@dataclass(frozen=True, slots=True)
class MergeByMixture:
    """The N likeliest items of Σ_m quota_m/N · p(i | z_m), shared out to the outcomes that made them likely."""

    softmax: ItemSoftmax

    def __call__(self, plan: RetrievalPlan, score: np.ndarray, row: np.ndarray, excluded: np.ndarray) -> RankedItems:
        item_row = np.setdiff1d(row[row >= 0], excluded)
        weight = plan.quota / plan.quota.sum()
        log_weight = np.log(weight).astype(np.float32)
        part = log_weight[:, None] + self.softmax.log_probability(plan.embedding, item_row)  # [M, U]
        total = _log_sum(part)
        chosen = np.argsort(-total, kind="stable")[: plan.quota.sum()]
        part, total = part[:, chosen], total[chosen]
        outcome = _share_out(plan, part)
        embedding = np.where(plan.outcome[:, None] == outcome, part, -np.inf).argmax(axis=0)
        return RankedItems(
            item_row=item_row[chosen],
            score=np.exp(total).astype(np.float32),
            embedding=embedding.astype(np.int32),
            outcome=outcome.astype(np.int32),
        )


def _share_out(plan: RetrievalPlan, part: np.ndarray) -> np.ndarray:
    """Which outcome each item counts for, int64 ``[n]``: the largest share of its probability first, within budgets.

    ``part`` ``[M, n]`` is the logarithm of what each embedding adds to an item's probability.
    """
    _, n = part.shape
    names = np.unique(plan.outcome)
    by_outcome = np.stack([_log_sum(part[plan.outcome == name]) for name in names])  # [O, n]
    share = by_outcome - _log_sum(by_outcome)
    left = [int(plan.quota[plan.outcome == name].sum()) for name in names]
    outcome = np.full(n, -1)
    for pair in np.argsort(-share, axis=None, kind="stable").tolist():
        o, i = divmod(pair, n)
        if left[o] and outcome[i] < 0:
            outcome[i] = o
            left[o] -= 1
    return names[outcome]


def _log_sum(part: np.ndarray) -> np.ndarray:
    """log Σ exp over the first dimension of finite logarithms: ``[m, n]`` → ``[n]``."""
    largest = part.max(axis=0)
    return largest + np.log(np.exp(part - largest).sum(axis=0))


def _merge_or_deepen(
    index: ItemIndex,
    plan: RetrievalPlan,
    excluded: np.ndarray,
    score: np.ndarray,
    row: np.ndarray,
    merge: MergeRule,
) -> RankedItems:
    """The merge; where it falls short, again from a deeper search: once in the same lists, then exactly.

    Most shortfalls are embeddings that compete for the same items, and the probed lists hold enough of others. Only
    what these cannot give, such as most of a small catalogue, pays for visiting every list.
    """
    num_items = int(plan.quota.sum())
    items = merge(plan, score, row, excluded)
    depth = row.shape[1]
    exhaustive = exhausted = False
    while len(items.item_row) < num_items and not exhausted:
        depth = min(depth * DEEPER, len(index))
        exhausted = exhaustive and depth == len(index)
        items = merge(plan, *index.search(plan.embedding, depth, exhaustive=exhaustive), excluded)
        exhaustive = True
    return items


def _depth(plan: RetrievalPlan, excluded: np.ndarray, overfetch: float) -> int:
    """How deep to look: the largest quota with room for repeats, and for seen items, which tend to rank first."""
    room = int(np.ceil(plan.quota.max() * overfetch))
    return room + min(len(excluded), room)
