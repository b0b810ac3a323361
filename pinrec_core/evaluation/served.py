"""What a caller gets: the N items that compression, quotas, search and de-duplication leave of E embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.merging import RankedItems, retrieve
from pinrec_core.retrieval_plan import plan_retrieval

if TYPE_CHECKING:
    from pinrec_core.indexed_model import IndexedModel

SERVED_ITEMS = 100
NONE_SEEN = np.empty(0, np.int64)


def serve(
    indexed: IndexedModel,
    embedding: Tensor,
    cases: Sequence[EvaluationCase],
    budget: np.ndarray,
    *,
    num_items: int = SERVED_ITEMS,
    exclude_seen: bool = False,
) -> list[RankedItems]:
    """Embeddings ``[B, O, n, D]`` of B cases under one budget ``[O]`` → the answers of the retrieval stage.

    ``exclude_seen`` keeps items of the history out of the answer, as a request may ask for.
    """
    B = len(cases)
    seeds = [case.seed for case in cases]
    plans = plan_retrieval(embedding, [budget] * B, [num_items] * B, seeds, indexed.generation)
    excluded = [case.seen_row if exclude_seen else NONE_SEEN for case in cases]
    return retrieve(indexed.index, plans, excluded, overfetch=indexed.generation.overfetch, merge=indexed.merge)
