"""A training run becomes an ``IndexedModel``: its catalogue is indexed and what a run cannot learn is calibrated.

Calibrated are the merge threshold (on a compression ratio), nprobe (on exact search for the queries that requests
make), the strength of each outcome and the weights of later offsets and steps (both on what users did next, among as
many items as are served). Who the users are is the caller's choice; they come as requests with their targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinrec_core.config.sections import GenerationConfig
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError, require
from pinrec_core.generation.compression import compress, compression_ratio
from pinrec_core.generation.planning import plan_retrieval
from pinrec_core.model.device import torch_device
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import CalibratedOn, Calibration
from pinrec_core.representations.id_tables import IdTables, RowFormat
from pinrec_core.request import Request
from pinrec_core.retrieval.catalogue_vectors import represent_catalogue
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.merging import lookup_depth
from pinrec_core.training.run import Run

INDEX_RECALL_TARGET = 0.98
CALIBRATION_REQUESTS = 256  # that a choice is made on, or that are asked for an outcome
THRESHOLD_USERS = 64  # of them: a threshold needs fewer than a recall
CALIBRATION_QUERIES = 1024
CALIBRATION_BATCH = 32
DISCOUNTS = {"offset_discount": (1.0, 0.5, 0.2, 0.05), "step_discount": (1.0, 0.8, 0.6, 0.4, 0.2)}
"""Settings of generation, in the order in which they are calibrated, and what is tried."""
STRENGTHS = (0.75, 1.0, 0.5, 1.25, 0.25, 1.5, 0.0)
"""What is tried, the likeliest first. On logs of several kinds .75 is near the best for frequent and rare outcomes."""
NOT_YET = Calibration(
    index_type="", nlist=0, nprobe=0, recall_depth=0, recall_target=INDEX_RECALL_TARGET, recall=0.0,
    compression_ratio=1.0,
    calibrated_on=CalibratedOn(protocol="", users=0, targets_per_user=0, unseen=False),
)  # fmt: skip
"""Of a model that is being calibrated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRequest:
    """A request of the past, and what its user did next: Z items, by catalogue row, each with its outcome."""

    user_id: int | str
    request: Request
    target_row: np.ndarray  # int64 [Z]
    target_outcome: np.ndarray  # int [Z]


def index_run(
    run: Run,
    dataset: Path,
    known: Sequence[KnownRequest],
    *,
    generation: GenerationConfig,
    compression_target: float,
    protocol: str,
    unseen: bool,
    device: str = "cpu",
    id_rows: RowFormat = RowFormat.FP16,
    report: Callable[[str], None] = lambda _: None,
) -> IndexedModel:
    """Index the catalogue, then calibrate on what ``known`` requests generate and find.

    ``compression_target`` is the wanted number of generated embeddings per kept one. ``protocol`` and ``unseen`` say
    whose requests these are and whether training had not seen their targets; the release remembers it. The model runs
    on ``device``, the ID embedder on the CPU, with rows in the format ``id_rows``, as in serving. ``report`` is told
    what is being done.

    Raises ``DataError`` when the dataset is not the one that the run was trained on, ``ConfigError`` for a device that
    is not there.
    """
    manifest = DatasetManifest.load(dataset)
    manifest.check_identity(run.identity)
    model = run.load_model()
    embed_ids = IdTables.pack(model.id_embedding, id_rows)
    model = model.to(torch_device(device))
    catalogue = ItemCatalogue.open(dataset)
    report(f"representing {len(catalogue):,} items")
    vectors = represent_catalogue(model, embed_ids, catalogue)
    report("indexing")
    index = ItemIndex.build(vectors)
    indexed = IndexedModel(
        model=model,
        embed_ids=embed_ids,
        catalogue=catalogue,
        index=index,
        generation=replace(generation, inverse_temperature=run.inverse_temperature()),
        dataset=manifest,
        calibration=NOT_YET,
    )
    indexed = replace(
        indexed, calibration=replace(NOT_YET, calibrated_on=_users(known, protocol=protocol, unseen=unseen))
    )
    report("calibrating compression and index")
    indexed = _calibrate_lookup(indexed, known, compression_target)
    report("calibrating the strength of each outcome")
    steered = calibrate_strength(indexed, known)
    if steered.generation.strength != indexed.generation.strength:
        report("calibrating compression and index again, for what is generated at that strength")
        steered = _calibrate_lookup(steered, known, compression_target)
    report("calibrating the weights of later offsets and steps")
    discounted = calibrate_discounts(steered, known[:CALIBRATION_REQUESTS])
    if discounted.generation == steered.generation:
        return discounted
    report("calibrating the index again, at the depth under these weights")
    usual = known[:THRESHOLD_USERS]
    return _calibrate_index(discounted, sample_embeddings(discounted, usual), [one.request for one in usual])


def reindex(
    serving: IndexedModel,
    dataset: Path,
    known: Sequence[KnownRequest],
    *,
    protocol: str,
    unseen: bool,
    report: Callable[[str], None] = lambda _: None,
) -> IndexedModel:
    """The same model with the catalogue of ``dataset``, a later one of the same space: its items are indexed, and
    nprobe is calibrated on what ``known`` requests look up. The thresholds of generation stay.

    An item that training did not know has the rows of the ID tables that its key's hashes select, and its own content.
    ``protocol`` and ``unseen`` as for ``index_run``; the calibration's figures are then of these users. Raises
    ``DataError`` when the dataset has other vocabularies, ids or content features than the model was made for.
    """
    manifest = DatasetManifest.load(dataset)
    check_later_dataset(manifest, serving.dataset)
    catalogue = ItemCatalogue.open(dataset)
    report(f"representing {len(catalogue):,} items")
    vectors = represent_catalogue(serving.model, serving.embed_ids, catalogue)
    report("indexing")
    indexed = replace(serving, catalogue=catalogue, index=ItemIndex.build(vectors), dataset=manifest)
    sample = sample_embeddings(indexed, known[:THRESHOLD_USERS])
    calibration = replace(
        serving.calibration,
        compression_ratio=_ratio(sample, serving.generation.merge_cosine),
        calibrated_on=_users(known, protocol=protocol, unseen=unseen),
    )
    report("calibrating the index")
    requests = [one.request for one in known[:THRESHOLD_USERS]]
    return _calibrate_index(replace(indexed, calibration=calibration), sample, requests)


def _calibrate_lookup(indexed: IndexedModel, known: Sequence[KnownRequest], compression_target: float) -> IndexedModel:
    """The same model with the merge threshold and the nprobe for what it generates."""
    usual = known[:THRESHOLD_USERS]
    sample = sample_embeddings(indexed, usual)
    merge_cosine = calibrate_merge_cosine(sample, compression_target)
    indexed = replace(
        indexed,
        generation=replace(indexed.generation, merge_cosine=merge_cosine),
        calibration=replace(indexed.calibration, compression_ratio=_ratio(sample, merge_cosine)),
    )
    return _calibrate_index(indexed, sample, [one.request for one in usual])


def check_later_dataset(manifest: DatasetManifest, made_with: DatasetManifest) -> None:
    """Raises ``DataError`` where a model that was made with one dataset has no use for another one's catalogue."""
    manifest.check_identity(made_with.identity)
    kind, expected = manifest.user_id_kind.value, made_with.user_id_kind.value
    require(kind == expected, f"user_id_kind of dataset {manifest.name!r}", kind, repr(expected), error=DataError)


def _users(known: Sequence[KnownRequest], *, protocol: str, unseen: bool) -> CalibratedOn:
    targets = len(known[0].target_row) if known else 0
    users = len({one.user_id for one in known})
    return CalibratedOn(protocol=protocol, users=users, targets_per_user=targets, unseen=unseen)


def _calibrate_index(indexed: IndexedModel, sample: Tensor, requests: Sequence[Request]) -> IndexedModel:
    """The same model with the least nprobe that reaches the recall target on the queries of ``requests``, whose
    embeddings are ``sample``."""
    index = indexed.index
    queries, depth = _sample_queries(indexed, sample, requests)
    reached = index.calibrate(queries, depth, recall_target=INDEX_RECALL_TARGET)
    return replace(
        indexed,
        generation=replace(indexed.generation, nprobe=index.nprobe),
        calibration=replace(
            indexed.calibration, index_type=index.structure, nlist=index.nlist, nprobe=index.nprobe,
            recall_depth=depth, recall=reached,
        ),
    )  # fmt: skip


def sample_embeddings(indexed: IndexedModel, known: Sequence[KnownRequest]) -> Tensor:
    """What the requests generate, ``[users, O, n, D]``; vectors of the catalogue where there is no request."""
    if known:
        return indexed.generate([one.request for one in known])
    rows = np.arange(min(len(indexed.index), CALIBRATION_QUERIES))
    return torch.from_numpy(indexed.index.vectors_of(rows)[None, None])


def _sample_queries(indexed: IndexedModel, sample: Tensor, requests: Sequence[Request]) -> tuple[np.ndarray, int]:
    """At most ``CALIBRATION_QUERIES`` of the queries that a service would look up for these requests, float32
    ``[n, D]``, evenly spaced, and how deep it would look for the deepest of them."""
    generation = indexed.generation
    if not requests:
        queries = sample.reshape(-1, indexed.index.width).numpy()
        return queries, int(np.ceil(generation.default_num_items * generation.overfetch))
    usual = [replace(request, num_items=generation.default_num_items) for request in requests]
    plans = plan_retrieval(sample, usual, generation)
    queries = np.concatenate([plan.embedding for plan in plans])
    chosen = np.linspace(0, len(queries) - 1, num=min(len(queries), CALIBRATION_QUERIES), dtype=np.int64)
    nothing = np.empty(0, np.int64)
    return queries[chosen], max(lookup_depth(plan, nothing, generation.overfetch) for plan in plans)


def calibrate_discounts(indexed: IndexedModel, known: Sequence[KnownRequest]) -> IndexedModel:
    """The same model with the discounts of later offsets and of later steps under which most targets are served.

    Later steps follow what was generated, not what happened, and later offsets look further ahead: how far either can
    be trusted differs between models. Of discounts that find about as many the weakest is chosen.
    """
    generation = indexed.generation
    matters = {"offset_discount": len(generation.offsets) > 1, "step_discount": generation.steps > 1}
    for name, candidates in DISCOUNTS.items():
        if matters[name] and known:
            indexed = _best_of([with_settings(indexed, **{name: discount}) for discount in candidates], known)
    return indexed


def with_settings(indexed: IndexedModel, **settings: Any) -> IndexedModel:
    """The same model with other settings of generation."""
    return replace(indexed, generation=replace(indexed.generation, **settings))


def _best_of(candidates: Sequence[IndexedModel], known: Sequence[KnownRequest]) -> IndexedModel:
    """The model that serves most targets of these requests. All generate alike."""
    return candidates[first_of_the_best(targets_served(candidates, known))]


def targets_served(models: Sequence[IndexedModel], known: Sequence[KnownRequest]) -> np.ndarray:
    """How many targets of each request each model serves, ``[requests, models]``. All must generate alike."""
    hits = np.zeros((len(known), len(models)))
    for start in range(0, len(known), CALIBRATION_BATCH):
        part = known[start : start + CALIBRATION_BATCH]
        requests = [one.request for one in part]
        embedding = models[0].generate(requests)
        for i, model in enumerate(models):
            for b, answer in enumerate(model.retrieve(embedding, requests)):
                hits[start + b, i] = np.isin(part[b].target_row, answer.item_row).sum()
    return hits


def first_of_the_best(value: np.ndarray) -> int:
    """The first of the candidates that nothing speaks against: ``[requests, candidates]`` → its number.

    That is one whose mean is less than a standard error below the best one's, of the differences between the two
    request by request. Figures of a few requests differ by chance, and what they say alone should not decide.
    """
    if len(value) < 2:
        return 0
    best = value.mean(axis=0).argmax()
    behind = value[:, [best]] - value
    error = behind.std(axis=0, ddof=1) / len(value) ** 0.5
    return int((behind.mean(axis=0) <= error).argmax())


def calibrate_strength(indexed: IndexedModel, known: Sequence[KnownRequest]) -> IndexedModel:
    """The same model, in which each outcome steers as strongly as serves its own targets best: most, and foremost.

    Asked for one outcome alone, a model may find fewer of that outcome's targets than it would unconditioned: what a
    rare outcome's own interactions teach is little. How strongly to steer is therefore a property of the log and of the
    outcome. At strength 0 all outcomes are alike.
    """
    if not indexed.model.config.variant.outcome_conditioned or not known:
        return indexed
    best = [
        STRENGTHS[first_of_the_best(_gain_by_strength(indexed, known, outcome))]
        for outcome in range(indexed.model.config.num_conditions)
    ]
    return with_settings(indexed, strength=tuple(best))


def _gain_by_strength(indexed: IndexedModel, known: Sequence[KnownRequest], outcome: int) -> np.ndarray:
    """What the list for one outcome alone is worth to the requests that have a target of it, float
    ``[requests, strengths]``: the sum of 1 / log2(1 + rank) over these targets, as in DCG."""
    alone = np.eye(indexed.model.config.num_conditions)[outcome]
    concerned = [one for one in known if (one.target_outcome == outcome).any()][:CALIBRATION_REQUESTS]
    gain = np.zeros((len(concerned), len(STRENGTHS)))
    for start in range(0, len(concerned), CALIBRATION_BATCH):
        part = concerned[start : start + CALIBRATION_BATCH]
        for i, strength in enumerate(STRENGTHS):
            asked = [replace(one.request, budget=alone, strength=strength) for one in part]
            for b, answer in enumerate(indexed.answer(asked)):
                own = part[b].target_row[part[b].target_outcome == outcome]
                rank = 1 + np.flatnonzero(np.isin(answer.item_row, own))
                gain[start + b, i] = (1 / np.log2(1 + rank)).sum()
    return gain


def calibrate_merge_cosine(embedding: Tensor, target_ratio: float) -> float:
    """The threshold that compresses ``[users, O, n, D]`` to about ``target_ratio`` embeddings per kept one.

    The ratio falls as the threshold rises, so it is found by bisection. At least two of an outcome's n embeddings are
    kept on average: with few steps a ratio meant for many would leave a single one.
    """
    target_ratio = min(target_ratio, max(1.0, embedding.shape[2] / 2))
    low, high = -1.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if _ratio(embedding, middle) > target_ratio else (low, middle)
    return round(high, 4)


def _ratio(embedding: Tensor, threshold: float) -> float:
    _, weight = compress(embedding, threshold)
    return compression_ratio(weight)
