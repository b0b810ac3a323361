"""Lookup of a batch's plans, choice of N items among what they find, and top-up (PinRec, generation).

One of three rules chooses. *Per outcome*, each outcome takes its share of N in turn, by what its own embeddings make of
the items that they found. By *quota*, each embedding brings its own number of items, best first; an item that several
find belongs to the one that scores it highest. By *mixture*, the N likeliest items under all of a request's embeddings
together come back, whichever outcome made them likely, and are shared out to the outcomes afterwards. Under all of
them, exactly N distinct items come back, each outcome with exactly its share of the budget, as long as the search finds
enough. What an outcome is short of is not made up by another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from pinrec_core.config.sections import GenerationConfig, Merging
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.item_softmax import ItemSoftmax
from pinrec_core.retrieval.lookup import Finds, PlanBatch, look_up
from pinrec_core.retrieval.mixture import MergeByMixture
from pinrec_core.retrieval.per_outcome import MergePerOutcome
from pinrec_core.retrieval.quota import merge_by_quota
from pinrec_core.retrieval.ranked_items import RankedItems

DEEPER = 4
"""Factor by which a search that came up short is deepened: at first in items, then in lists as well."""
DEEPENINGS = 3
WHOLE_ITEMS = 65_536
"""The largest catalogue that is searched as a whole where deepening did not find enough."""

MergeRule = Callable[[PlanBatch, Finds, list[np.ndarray]], list[RankedItems]]
"""(plans, what they found, rows int64 ``[X]`` per request that must not come back) → at most N items per request."""


def retrieve(
    index: ItemIndex,
    plans: Sequence[RetrievalPlan],
    excluded: Sequence[np.ndarray],
    *,
    overfetch: float,
    merge: MergeRule,
) -> list[RankedItems]:
    """Answer a batch: the lookup of all requests' embeddings, then the merge of all requests.

    ``excluded`` holds rows per request that must not come back (int64 ``[X]``). Requests that came up short look again,
    together: most shortfalls are embeddings that compete for the same items. They look deeper, which costs little, then
    in more lists as well, and in the end through the whole of a catalogue of at most ``WHOLE_ITEMS``. What is still
    short then is marked as not ``complete``.
    """
    depth = np.array([lookup_depth(plan, rows, overfetch) for plan, rows in zip(plans, excluded, strict=True)])
    answers: dict[int, RankedItems] = {}
    short = list(range(len(plans)))
    for attempt in range(DEEPENINGS + 2):
        whole = attempt > DEEPENINGS
        batch = PlanBatch.of([plans[b] for b in short])
        reach = np.minimum(depth[short] * DEEPER**attempt, len(index))
        if whole:
            reach[:] = len(index)
        finds = look_up(index, batch, reach, widen=DEEPER ** max(0, attempt - 1), exhaustive=whole)
        merged = merge(batch, finds, [excluded[b] for b in short])
        answers.update({b: replace(items, looks=attempt + 1) for b, items in zip(short, merged, strict=True)})
        short = [b for b, N in zip(short, batch.num_items.tolist(), strict=True) if len(answers[b].item_row) < N]
        if not short or (attempt == DEEPENINGS and len(index) > WHOLE_ITEMS):
            break
    else:
        short = []  # all that the index holds
    answers.update({b: replace(answers[b], complete=False) for b in short})
    return [answers[b] for b in range(len(plans))]


def merge_rule(index: ItemIndex, config: GenerationConfig) -> MergeRule:
    """The rule that a release is configured with."""
    if config.merging is Merging.QUOTA:
        return merge_by_quota
    softmax = ItemSoftmax(index, config.inverse_temperature)
    return MergePerOutcome(softmax) if config.merging is Merging.PER_OUTCOME else MergeByMixture(softmax)


def lookup_depth(plan: RetrievalPlan, excluded: np.ndarray, overfetch: float) -> int:
    """How deep to look: the largest quota with room for repeats, and for seen items, which tend to rank first."""
    room = int(np.ceil(plan.quota.max() * overfetch))
    return room + min(len(excluded), room)
