"""A trained model with its index and calibrated generation settings: what evaluation judges and a release freezes.

It can come from a run (indexed and calibrated now) or from a release (as frozen).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinrec_core.catalogue import ItemCatalogue
from pinrec_core.compression import compress, compression_ratio
from pinrec_core.config import GenerationConfig, ModelConfig
from pinrec_core.dataset import DatasetManifest
from pinrec_core.device import torch_device
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.served import serve
from pinrec_core.evaluation.user_embeddings import generate_for, serving_budget
from pinrec_core.item_index import ItemIndex
from pinrec_core.merging import MergeRule, merge_rule
from pinrec_core.release import Release, represent_catalogue
from pinrec_core.sequence_model import SequenceModel
from pinrec_core.training import Run

INDEX_RECALL_TARGET = 0.99
INDEX_RECALL_DEPTH = 100
CALIBRATION_USERS = 256
THRESHOLD_USERS = 64  # of them: a threshold needs fewer than a recall
CALIBRATION_QUERIES = 2048
CALIBRATION_BATCH = 32
STEP_DISCOUNTS = (1.0, 0.8, 0.6, 0.4, 0.2)


@dataclass(frozen=True, kw_only=True)
class IndexedModel:
    """Everything between a history and its items."""

    model: SequenceModel
    embed_ids: Callable[[Tensor], Tensor]
    catalogue: ItemCatalogue
    index: ItemIndex
    generation: GenerationConfig
    dataset: DatasetManifest
    calibration: dict[str, Any]

    @cached_property
    def merge(self) -> MergeRule:
        """How the finds of several embeddings become one list."""
        return merge_rule(self.index, self.generation)

    @staticmethod
    def from_release(release: Release, device: str = "cpu") -> IndexedModel:
        return IndexedModel(
            model=release.load_model(device),
            embed_ids=release.load_id_embedder(),
            catalogue=release.catalogue,
            index=release.index,
            generation=release.manifest.generation,
            dataset=release.manifest.dataset,
            calibration=release.manifest.index,
        )

    @staticmethod
    def from_run(
        run: Run,
        dataset: Path,
        cases: list[EvaluationCase],
        *,
        generation: GenerationConfig,
        compression_target: float,
        device: str = "cpu",
    ) -> IndexedModel:
        """Index the catalogue, then calibrate nprobe, merge threshold and step discount on what ``cases`` generate.

        ``compression_target`` is the wanted number of generated embeddings per kept one. The model runs on ``device``,
        the ID embedder on the CPU, as in serving. Raises ``DataError`` when the dataset is not the one that the
        run was trained on, ``ConfigError`` for a device that is not there.
        """
        manifest = DatasetManifest.load(dataset)
        manifest.check_identity(run.identity)
        model = run.load_model()
        embed_ids = model.id_embedding if device == "cpu" else copy.deepcopy(model.id_embedding)
        model = model.to(torch_device(device))
        catalogue = ItemCatalogue.open(dataset)
        index = ItemIndex.build(represent_catalogue(model, embed_ids, catalogue))
        sample = (
            generate_for(model, embed_ids, cases[:THRESHOLD_USERS], serving_budget(model, manifest), generation)
            if cases
            else torch.from_numpy(index.reconstruct(np.arange(min(len(index), CALIBRATION_QUERIES)))[None, None])
        )
        # To the host, once: Faiss calibrates there.
        queries = sample.reshape(-1, index.width).cpu().numpy()[:CALIBRATION_QUERIES]
        nprobe, recall = index.calibrate(queries, INDEX_RECALL_DEPTH, recall=INDEX_RECALL_TARGET)
        merge_cosine = calibrate_merge_cosine(sample, compression_target)
        indexed = IndexedModel(
            model=model,
            embed_ids=embed_ids,
            catalogue=catalogue,
            index=index,
            generation=replace(
                generation, nprobe=nprobe, merge_cosine=merge_cosine, inverse_temperature=run.inverse_temperature()
            ),
            dataset=manifest,
            calibration={
                "type": "IVF_HNSW",
                "nlist": index.nlist,
                "nprobe": nprobe,
                f"recall_at_{INDEX_RECALL_DEPTH}": recall,
                "compression_ratio": compression_ratio(compress(sample, merge_cosine)),
            },
        )
        return calibrate_step_discount(indexed, cases[:CALIBRATION_USERS])


def default_generation(config: ModelConfig) -> GenerationConfig:
    """Six steps, as in production; a multi-token variant uses every offset that it was trained on."""
    return GenerationConfig(
        steps=min(6, config.max_steps),
        offsets=tuple(range(1, config.max_offset + 1)) if config.variant.multi_token else (1,),
    )


def default_compression_target(config: ModelConfig) -> float:
    """The median ratios that the paper reports: 6 for UC, 3 for {MT,OC}; the others follow their conditioning."""
    return 3.0 if config.variant.outcome_conditioned else 6.0


def calibrate_step_discount(indexed: IndexedModel, cases: Sequence[EvaluationCase]) -> IndexedModel:
    """The same with the step discount under which most targets of ``cases`` are among the items served.

    Later steps follow what was generated, not what happened, and how far they can be trusted differs between models.
    Of equal discounts the weakest counts.
    """
    if indexed.generation.steps == 1 or not cases:
        return indexed
    budget = serving_budget(indexed.model, indexed.dataset)
    discounted = [
        replace(indexed, generation=replace(indexed.generation, step_discount=discount)) for discount in STEP_DISCOUNTS
    ]
    hits = np.zeros(len(discounted))
    for start in range(0, len(cases), CALIBRATION_BATCH):
        part = cases[start : start + CALIBRATION_BATCH]
        embedding = generate_for(indexed.model, indexed.embed_ids, part, budget, indexed.generation)
        for i, one in enumerate(discounted):
            for case, answer in zip(part, serve(one, embedding, part, budget), strict=True):
                hits[i] += np.isin(case.target_row, answer.item_row).sum()
    return discounted[int(hits.argmax())]


def calibrate_merge_cosine(embedding: Tensor, target_ratio: float) -> float:
    """The threshold that compresses ``[users, O, n, D]`` to about ``target_ratio`` embeddings per kept one.

    The ratio falls as the threshold rises, so it is found by bisection. At least two of an outcome's n embeddings are
    kept on average: with few steps a ratio meant for many would leave a single one.
    """
    target_ratio = min(target_ratio, max(1.0, embedding.shape[2] / 2))
    low, high = -1.0, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if compression_ratio(compress(embedding, middle)) > target_ratio else (low, middle)
    return round(high, 4)
