"""Offline evaluation (PinRec, evaluation): unordered recall, diversity, and what the whole path returns for N items.

Protocol: users held out of training by hash; their last Z items with an outcome are the targets, what came before is
the history; no teacher forcing. The index is the whole catalogue, searched exactly. Items of equal popularity rank by
catalogue row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.collate import collate, pad
from pinrec_core.compression import compress
from pinrec_core.config import GenerationConfig
from pinrec_core.dataset import DatasetManifest
from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.generation import RequestContext, draw_feedback_outcomes, generate
from pinrec_core.history import NO_OUTCOME, History
from pinrec_core.item_index import ItemIndex
from pinrec_core.merging import retrieve
from pinrec_core.model import PinRec
from pinrec_core.retrieval_plan import plan_retrieval
from pinrec_core.sequences import is_evaluation_user, iter_histories
from pinrec_core.training import SEQUENCES

SERVED_ITEMS = 100
SCORES_AT_ONCE = 1 << 26
"""Scores of the exact search that are held at once, 256 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationCase:
    """One held-out user: the history up to the cut, and the rows of the Z target items after it."""

    history: History
    target_row: np.ndarray  # int64 [Z]
    target_outcome: np.ndarray  # int16 [Z]
    request_time: int  # of the first target


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationReport:
    """Shares in [0, 1], beside the most frequent training items.

    E embeddings retrieve far more than k items, so a popular list of k is an easy baseline: ``…_equal_items`` gives
    each user as many popular items as their own lists hold distinct ones, and ``served_recall_100`` compares what a
    caller gets, 100 items against 100.
    """

    users: int
    targets_per_user: int
    catalogue: int
    embeddings: int  # E, generated per user
    k: int
    unordered_recall: float  # recall@k of E embeddings (eq. 6)
    popularity_recall: float  # recall@k of one popular list
    distinct_items: float  # that the E top-k lists of one user hold on average
    popularity_recall_equal_items: float
    served_recall_100: float  # what compression, quotas and de-duplication return for 100 items
    popularity_recall_100: float
    diversity: float  # share of distinct items among all that the top-k lists hold
    compression_ratio: float
    recall_by_outcome: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What one user's lists recalled of the Z targets."""

    hit: np.ndarray  # bool [Z]: by one of the top-k lists
    served_hit: np.ndarray  # bool [Z]: by the served items
    popular_hit: np.ndarray  # bool [Z]: by as many popular items as the lists hold distinct ones
    distinct_items: int
    embeddings: int  # E
    kept: int  # by compression


def evaluation_cases(
    dataset: Path, catalogue: ItemCatalogue, *, share: float, targets: int, max_users: int
) -> tuple[list[EvaluationCase], np.ndarray]:
    """Cases of held-out users, and item counts ``[V]`` over the training users for the popularity baseline.

    ``catalogue`` is that of the index to be judged: rows are its own. Raises ``ConfigError`` for a number below 1.
    """
    require(targets > 0, "targets", targets, "a value above 0", error=ConfigError)
    require(max_users > 0, "max_users", max_users, "a value above 0", error=ConfigError)
    popularity = np.zeros(len(catalogue), np.int64)
    cases: list[EvaluationCase] = []
    for user_id, history in iter_histories(dataset / SEQUENCES):
        is_target = history.outcome != NO_OUTCOME
        if not is_evaluation_user(user_id, share):
            row = catalogue.rows_of(history.item_key[is_target])
            np.add.at(popularity, row[row >= 0], 1)
        elif len(cases) < max_users:
            cases.extend(_case(history, np.flatnonzero(is_target), catalogue, targets))
    return cases, popularity


def evaluate(
    model: PinRec,
    embed_ids: Callable[[Tensor], Tensor],
    index: ItemIndex,
    generation: GenerationConfig,
    manifest: DatasetManifest,
    cases: Sequence[EvaluationCase],
    popularity: np.ndarray,
    *,
    k: int = 10,
    batch: int = 16,
    report: Callable[[int], None] = lambda _: None,
) -> EvaluationReport:
    """Judge a model. ``index`` holds the item representations; ``embed_ids`` maps keys ``[n]`` to ID embeddings.

    Raises ``DataError`` when there is no case.
    """
    require(k > 0, "k", k, "a value above 0", error=ConfigError)
    if not cases:
        raise DataError("no held-out user has enough interactions: lower the number of targets or hold out more users")
    budget = serving_budget(model, manifest)
    items = torch.from_numpy(index.reconstruct(np.arange(len(index))))
    by_popularity = np.argsort(-popularity, kind="stable")
    verdicts: list[_Verdict] = []
    distinct = np.zeros(len(index), bool)
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        embedding = generate_for(model, embed_ids, part, budget, generation)  # [B, O, n, D]
        B, O, n, D = embedding.shape
        found = exact_top_k(embedding.reshape(-1, D).float().cpu(), items, k).reshape(B, -1)
        kept = (compress(embedding, generation.merge_cosine) > 0).sum((1, 2)).tolist()
        plans = plan_retrieval(embedding, [budget] * B, [SERVED_ITEMS] * B, [0] * B, generation)
        served = retrieve(index, plans, [np.empty(0, np.int64)] * B, overfetch=generation.overfetch)
        distinct[found] = True
        for case, rows, answer, kept_of_user in zip(part, found, served, kept, strict=True):
            own = np.unique(rows)
            verdicts.append(
                _Verdict(
                    hit=np.isin(case.target_row, own),
                    served_hit=np.isin(case.target_row, answer.item_row),
                    popular_hit=np.isin(case.target_row, by_popularity[: len(own)]),
                    distinct_items=len(own),
                    embeddings=O * n,
                    kept=kept_of_user,
                )
            )
        report(B)
    return _report(verdicts, cases, by_popularity, k, int(distinct.sum()), manifest.outcomes)


def exact_top_k(query: Tensor, items: Tensor, k: int) -> np.ndarray:
    """Rows of each query's ``k`` best items by inner product, exactly: ``[n, D]``, ``[V, D]`` → int64 ``[n, k]``.

    In blocks, so that a large catalogue does not need all n·V scores at once.
    """
    block = max(1, SCORES_AT_ONCE // len(items))
    best = [(part @ items.T).topk(min(k, len(items)), dim=1).indices for part in query.split(block)]
    return torch.cat(best).numpy()


def generate_for(
    model: PinRec,
    embed_ids: Callable[[Tensor], Tensor],
    cases: Sequence[EvaluationCase],
    budget: np.ndarray,
    generation: GenerationConfig,
) -> Tensor:
    """What serving would generate for these users: ``[B, O, n, D]``. As in serving, ``embed_ids`` runs on the CPU and
    its result passes through FP16."""
    device = model.start_token.device
    histories = [case.history.take(slice(-model.config.max_history, None)) for case in cases]
    key = pad([h.item_key for h in histories])
    B, T = key.shape
    with torch.inference_mode():
        id_embedding = embed_ids(key.flatten()).half().unflatten(0, (B, T)).to(device, model.start_token.dtype)
    time = [case.request_time for case in cases]
    context = RequestContext(
        surface=torch.zeros(B, dtype=torch.int64, device=device),
        timestamp=torch.tensor(time, device=device),
        feedback_outcome=torch.from_numpy(
            np.stack([draw_feedback_outcomes(budget, generation.steps, seed) for seed in range(B)])
        ).to(device),
    )
    return generate(model, collate(histories, id_embedding, request_time=time), context, generation.offsets)


def _report(
    verdicts: Sequence[_Verdict],
    cases: Sequence[EvaluationCase],
    by_popularity: np.ndarray,
    k: int,
    distinct: int,
    outcome_names: Sequence[str],
) -> EvaluationReport:
    """Shares over all users; ``distinct`` items are in any of the top-k lists."""
    target_rows = np.stack([case.target_row for case in cases])
    outcomes = np.stack([case.target_outcome for case in cases])
    hit = np.stack([verdict.hit for verdict in verdicts])
    E, V = verdicts[0].embeddings, len(by_popularity)
    return EvaluationReport(
        users=len(cases),
        targets_per_user=target_rows.shape[1],
        catalogue=V,
        embeddings=E,
        k=k,
        unordered_recall=float(hit.mean()),
        popularity_recall=float(np.isin(target_rows, by_popularity[:k]).mean()),
        distinct_items=float(np.mean([verdict.distinct_items for verdict in verdicts])),
        popularity_recall_equal_items=float(np.mean([verdict.popular_hit for verdict in verdicts])),
        served_recall_100=float(np.mean([verdict.served_hit for verdict in verdicts])),
        popularity_recall_100=float(np.isin(target_rows, by_popularity[:SERVED_ITEMS]).mean()),
        diversity=distinct / (len(cases) * E * min(k, V)),
        compression_ratio=E * len(cases) / sum(verdict.kept for verdict in verdicts),
        recall_by_outcome={
            name: float(hit[outcomes == number].mean())
            for number, name in enumerate(outcome_names)
            if (outcomes == number).any()
        },
    )


def serving_budget(model: PinRec, manifest: DatasetManifest) -> np.ndarray:
    """The default budget ``[O]``: the log's own outcome mix, or all on the one condition of an unconditioned model."""
    return np.array(manifest.outcome_share if model.config.num_conditions > 1 else (1.0,), np.float64)


def _case(history: History, positions: np.ndarray, catalogue: ItemCatalogue, targets: int) -> Iterator[EvaluationCase]:
    """The user's case, unless fewer than ``targets`` distinct items follow a first interaction."""
    row = catalogue.rows_of(history.item_key[positions])
    last = len(positions) - 1 - np.unique(row[::-1], return_index=True)[1]  # last occurrence of each distinct item
    last = np.sort(last[row[last] >= 0])[-targets:]
    if len(last) < targets or positions[last[0]] == 0:
        return
    chosen = positions[last]
    cut = int(chosen[0])
    yield EvaluationCase(
        history=history.take(np.arange(cut)),  # a copy: a view would keep the whole file chunk alive
        target_row=row[last],
        target_outcome=history.outcome[chosen],
        request_time=int(history.timestamp[cut]),
    )
