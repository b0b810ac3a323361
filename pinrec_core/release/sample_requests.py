"""Made-up requests, for a release whose users are not at hand: to compare generators, and to see that it answers."""

from __future__ import annotations

import numpy as np

from pinrec_core.history import NO_OUTCOME, History, ItemType
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.request import Request

SAMPLE = 8


def sample_requests(serving: IndexedModel, *, num_items: int) -> list[Request]:
    """Requests with histories of all lengths, from none to the longest, of random items of the catalogue."""
    random = np.random.default_rng(0)
    config, catalogue = serving.model.config, serving.catalogue
    requests = []
    for seed, T in enumerate(np.linspace(0, config.max_history, SAMPLE, dtype=int).tolist()):
        row = np.sort(random.integers(0, len(catalogue), T))
        history = History(
            item_key=catalogue.item_key[row],
            item_type=np.full(T, ItemType.PIN, np.uint8),
            outcome=np.full(T, NO_OUTCOME, np.int16),
            surface=random.integers(0, config.num_surfaces, T).astype(np.int16),
            timestamp=np.sort(random.integers(1_600_000_000, 1_700_000_000, T)),
            feature=catalogue.feature[row],
            scale=catalogue.scale[row],
        )
        requests.append(
            Request(
                history=history, surface=0, time=1_700_000_000, seed=seed, budget=serving.default_budget,
                num_items=num_items,
            )
        )  # fmt: skip
    return requests
