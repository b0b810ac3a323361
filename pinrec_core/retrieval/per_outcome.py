"""Merging per outcome: each outcome chooses its share of the items, by what its own embeddings make of them.

N·B(a) items are the likeliest under the mixture of outcome a's embeddings, among those that they found. So what an item
is served for is what it was chosen for, and the budget holds by construction. Where several outcomes want an item, it
goes to the one whose turn comes first. Turns follow the budget: after every turn each outcome has had its share of the
turns so far, to within one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pinrec_core.retrieval.item_segments import ItemSegments, largest, log_sum
from pinrec_core.retrieval.item_softmax import ItemSoftmax
from pinrec_core.retrieval.lookup import Finds, PlanBatch
from pinrec_core.retrieval.ranked_items import RankedItems

SHORTLIST_LEAST = 128
"""What an item's finders give it is a first guess. Of those that are best by it an outcome looks at N more than it may
have, because the others may take nearly N of them, and at no fewer than this."""


@dataclass(frozen=True, slots=True)
class MergePerOutcome:
    """The likeliest items of every outcome's own mixture Σ_m quota_m · p(i | z_m), best first in turn.

    They are listed by their probability under all embeddings of the request together, which is their score.
    """

    softmax: ItemSoftmax

    def __call__(self, batch: PlanBatch, finds: Finds, excluded: list[np.ndarray]) -> list[RankedItems]:
        """A ``MergeRule``."""
        log_p = self.softmax.normalise(batch.embedding, finds)
        log_weight = np.log(batch.quota / batch.num_items[batch.request]).astype(np.float32)
        found = log_p.log_probability(finds.score, finds.embedding) + log_weight[finds.embedding]
        outcomes = int(batch.outcome.max()) + 1
        group = batch.request * outcomes + batch.outcome
        items = ItemSegments.of(group[finds.embedding], finds.item_row, found)
        answers = []
        for b, N in enumerate(batch.num_items.tolist()):
            own = np.flatnonzero(batch.request == b)
            choosers, chooser_of = np.unique(group[own], return_inverse=True)  # G groups: this request's outcomes
            room = np.bincount(chooser_of, weights=batch.quota[own]).astype(np.int64).tolist()
            segments = [
                items.shortlist(g, max(N + n, SHORTLIST_LEAST), excluded[b])
                for g, n in zip(choosers.tolist(), room, strict=True)
            ]
            rows, column = np.unique(items.item_row[np.concatenate(segments)], return_inverse=True)
            columns = np.split(column, np.cumsum([len(segment) for segment in segments])[:-1])
            vectors = self.softmax.index.vectors_of(rows)
            part = log_p.log_probability(batch.embedding[own] @ vectors.T, own[:, None])  # [m, U]
            part += log_weight[own, None]
            wanted = [
                column[largest(log_sum(part[np.ix_(chooser_of == c, column)]), N)].tolist()
                for c, column in enumerate(columns)
            ]
            chosen, chooser = in_turn(wanted, room)
            total = log_sum(part[:, chosen])
            order = largest(total, N)
            chosen, chooser = chosen[order], chooser[order]
            segment_of = np.empty((len(choosers), len(rows)), np.int64)
            for c, (column, segment) in enumerate(zip(columns, segments, strict=True)):
                segment_of[c, column] = segment
            finder = finds.embedding[items.likeliest_pair(segment_of[chooser, chosen], found)]
            answers.append(
                RankedItems(
                    item_row=rows[chosen],
                    score=np.exp(total[order]),
                    outcome=(choosers[chooser] % outcomes).astype(np.int32),
                    embedding=(finder - own[0]).astype(np.int32),
                )
            )
        return answers


def in_turn(wanted: Sequence[Sequence[int]], room: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which items are taken, and by which of several choosers: int64 ``[n]`` each, in the order of the turns.

    ``wanted`` are the items that each chooser would take, best first, and ``room`` how many of them. A chooser with
    nothing left to want leaves its places empty.
    """
    # The k-th of a chooser's n turns lies at (k + 1/2)/n of the way; of equal ones the earlier chooser's comes first.
    turns = sorted(((k + 0.5) / n, chooser) for chooser, n in enumerate(room) for k in range(n))
    left = [iter(items) for items in wanted]
    taken: dict[int, int] = {}
    for _, chooser in turns:
        item = next((item for item in left[chooser] if item not in taken), None)
        if item is not None:
            taken[item] = chooser
    return np.fromiter(taken, np.int64, len(taken)), np.fromiter(taken.values(), np.int64, len(taken))
