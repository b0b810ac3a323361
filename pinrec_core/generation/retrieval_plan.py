"""What passes from generation to retrieval: the embeddings that are looked up, and how many items each is to bring.

``planning`` makes it. Retrieval imports this module, and no torch with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalPlan:
    """The M embeddings of one request that are looked up, each with the number of items it is to bring."""

    embedding: np.ndarray  # float [M, D]
    outcome: np.ndarray  # int32 [M]
    quota: np.ndarray  # int32 [M], each above zero; their sum is N
