"""The retrieval stage: embeddings with quotas → N distinct items in rank order (``contract.FAISS_RETRIEVAL``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from pinrec_core import limits
from pinrec_core.errors import PinRecError
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.ids import IdKind
from pinrec_core.release.format import Release
from pinrec_core.retrieval.merging import merge_rule, retrieve
from pinrec_core.retrieval.ranked_items import RankedItems
from pinrec_core.stages.base import StageParameters, Tensors
from pinrec_core.stages.bounds import check_plan
from pinrec_core.stages.metrics import ITEMS_ASKED, ITEMS_RETURNED, RECALL_TARGET, SECOND_LOOKS, SHORT_ANSWERS
from pinrec_core.stages.packing import decode_plan
from pinrec_core.stages.recall_sampling import RecallSampler

log = logging.getLogger(__name__)

ANY_OUTCOME = "any"
"""The outcome in the answers of a release whose model is not conditioned on outcomes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalRequest:
    """One request's retrieval plan, and the catalogue rows that its answer must not contain."""

    plan: RetrievalPlan
    excluded: np.ndarray  # int64 [X]


class FaissRetrievalStage:
    """Looks the embeddings of a batch up in the index, merges what they find and translates rows to external ids."""

    def __init__(self, parameters: StageParameters) -> None:
        faiss.omp_set_num_threads(parameters.threads)
        release = Release.open(parameters.release_folder)
        self.index = release.index
        self.catalogue = release.catalogue
        self.generation = release.manifest.generation
        self.merge = merge_rule(self.index, self.generation)
        conditioned = release.manifest.model.variant.outcome_conditioned
        names = release.manifest.dataset.outcomes if conditioned else (ANY_OUTCOME,)
        self.names = names
        self.outcome_name = np.array([name.encode() for name in names], dtype=object)
        self.string_ids = release.manifest.dataset.item_id_kind is IdKind.STRING
        self.release_id = np.array([release.manifest.release_id.encode()], dtype=object)
        self.metrics = parameters.metrics
        calibration = release.manifest.calibration
        self.metrics.record(RECALL_TARGET, calibration.recall_target)
        approximate = self.index.nlist > 1  # an exact index finds all there is to find
        self.recall = RecallSampler(
            self.index,
            depth=calibration.recall_depth,
            every=parameters.recall_every if approximate else 0,
            metrics=self.metrics,
        )

    def parse(self, tensors: Tensors) -> RetrievalRequest:
        plan = decode_plan(tensors["retrieval_plan"])
        check_plan(plan, width=self.index.width, outcomes=len(self.outcome_name), generation=self.generation)
        keys = tensors["seen_item_key"]
        limits.EXCLUSIONS.check(len(keys), "seen_item_key")
        seen = self.catalogue.rows_of(keys)
        return RetrievalRequest(plan=plan, excluded=np.unique(seen[seen >= 0]))

    def run(self, rows: Sequence[RetrievalRequest]) -> Sequence[Tensors | PinRecError]:
        answers = retrieve(
            self.index,
            [row.plan for row in rows],
            [row.excluded for row in rows],
            overfetch=self.generation.overfetch,
            merge=self.merge,
        )
        self._measure(rows, answers)
        if short := sum(not answer.complete for answer in answers):
            log.warning("%d of %d answers hold fewer items than were asked for", short, len(answers))
        return [
            {
                "item_id": self._external(answer.item_row),
                "score": answer.score.astype(np.float32),
                "outcome": self.outcome_name[answer.outcome],
                "release": self.release_id,
            }
            for answer in answers
        ]

    def _measure(self, rows: Sequence[RetrievalRequest], answers: Sequence[RankedItems]) -> None:
        asked, returned = np.zeros(len(self.names), np.int64), np.zeros(len(self.names), np.int64)
        short = 0
        for row, answer in zip(rows, answers, strict=True):
            np.add.at(asked, row.plan.outcome, row.plan.quota)
            returned += np.bincount(answer.outcome, minlength=len(self.names))
            short += len(answer.item_row) < int(row.plan.quota.sum())
            self.recall.offer(row.plan.embedding)
        for name, wanted, got in zip(self.names, asked.tolist(), returned.tolist(), strict=True):
            self.metrics.record(ITEMS_ASKED, wanted, name)
            self.metrics.record(ITEMS_RETURNED, got, name)
        self.metrics.record(SHORT_ANSWERS, short)
        self.metrics.record(SECOND_LOOKS, sum(answer.looks - 1 for answer in answers))

    def _external(self, item_row: np.ndarray) -> np.ndarray:
        item_id = self.catalogue.item_ids(item_row)
        if self.string_ids:
            return np.array([i.encode() for i in item_id], dtype=object)
        return item_id.astype(np.int64)
