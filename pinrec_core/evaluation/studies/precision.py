"""What serving's number formats cost: INT8 features and FP16 or BF16 arithmetic, against FP32.

ID embeddings are those of the release's tables throughout: `pinrec release --id-rows int8` shows what INT8 tables cost.
A prepared dataset keeps features as INT8 only, so the FP32 features are made again from the catalogue's texts. That is
possible where an item's text is its title and categories; it is checked by quantising them and comparing with the
stored ones. Queries keep their INT8 features, because the dataset does not hold their texts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.errors import DataError
from pinrec_core.evaluation.bootstrap import Interval, ratio_interval
from pinrec_core.evaluation.cases import EvaluationCase
from pinrec_core.evaluation.held_out import BATCH_USERS, batches
from pinrec_core.evaluation.subjects import ModelSubject
from pinrec_core.evaluation.unordered_recall import recalled, retrieved_lists
from pinrec_core.generation.generate import generate
from pinrec_core.generation.inputs import embedded_histories, request_context
from pinrec_core.history import ItemType
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.representations.quantization import dequantize, quantize_int8
from pinrec_core.representations.text_encoder import text_encoder
from pinrec_core.retrieval.exact_search import Block, blocks_of

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ITEMS_AT_ONCE = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRow:
    """One combination of formats. ``hit`` is bool ``[users, Z]``."""

    features: str  # "fp32" or "int8"
    arithmetic: str  # a key of DTYPES
    hit: np.ndarray
    ratio: Interval  # of the recall to that of FP32 throughout, paired by user

    def to_dict(self) -> dict[str, Any]:
        return {
            "features": self.features,
            "arithmetic": self.arithmetic,
            "unordered_recall": float(self.hit.mean()),
            "ratio": self.ratio.to_dict(),
        }


def compare_precisions(
    subject: ModelSubject,
    cases: Sequence[EvaluationCase],
    *,
    k: int = 10,
    arithmetic: Iterable[str] = ("fp32", "bf16", "fp16"),
    report: Callable[[int], None] = lambda _: None,
) -> list[PrecisionRow]:
    """FP32 throughout first, then serving's formats with each arithmetic of the model.

    The item vectors of the FP32 reference are made of FP32 features too; the others use the index as it is. Raises
    ``DataError`` when the FP32 features cannot be had (see the module).
    """
    indexed = subject.indexed
    feature = full_precision_features(indexed.catalogue, indexed.dataset)
    embed_ids = indexed.embed_ids
    model = copy.deepcopy(indexed.model).float()
    reference = _hits(
        cases, partial(blocks_of, _represent(model, embed_ids, indexed.catalogue, feature)), k, report,
        lambda part: _generate_in_fp32(model, subject, part, feature),
    )  # fmt: skip
    rows = [PrecisionRow(features="fp32", arithmetic="fp32", hit=reference, ratio=_ratio(reference, reference))]
    for name in arithmetic:
        cast = replace(indexed, model=copy.deepcopy(indexed.model).to(DTYPES[name]), program=None)

        def generated(part: Sequence[EvaluationCase], cast: IndexedModel = cast) -> Tensor:
            return cast.generate([case.request(subject.budget) for case in part])

        hit = _hits(cases, indexed.index.blocks, k, report, generated)
        rows.append(PrecisionRow(features="int8", arithmetic=name, hit=hit, ratio=_ratio(hit, reference)))
    return rows


def full_precision_features(catalogue: ItemCatalogue, manifest: DatasetManifest) -> np.ndarray:
    """Content features before quantisation, float32 ``[V, F]``, made again from titles and categories.

    Raises ``DataError`` when they are not what the stored INT8 features were made of.
    """
    encoder = text_encoder(manifest.text_encoder)
    if encoder.width != manifest.feature_width:
        raise DataError(
            f"feature_width={manifest.feature_width}: expected {encoder.width}, that of {manifest.text_encoder}; the "
            "vectors supplied with the items are kept as INT8 only"
        )
    texts = [
        ". ".join(part for part in (catalogue.title(row), catalogue.categories(row)) if part)
        for row in range(len(catalogue))
    ]
    feature = encoder.encode(texts)
    quantized, _ = quantize_int8(feature)
    different = int((quantized != catalogue.feature).any(axis=1).sum())
    if different:
        raise DataError(
            f"features of {different} of {len(catalogue)} items differ from those of their title and categories: "
            "expected items that are described by nothing else"
        )
    return feature


def _hits(
    cases: Sequence[EvaluationCase],
    items: Callable[[], Iterable[Block]],
    k: int,
    report: Callable[[int], None],
    generated: Callable[[Sequence[EvaluationCase]], Tensor],
) -> np.ndarray:
    hits = []
    for part in batches(cases, BATCH_USERS):
        target = np.stack([case.target_row for case in part])
        hits.append(recalled(target, retrieved_lists(generated(part), items(), k)))
        report(len(part))
    return np.concatenate(hits)


@torch.inference_mode()
def _generate_in_fp32(
    model: SequenceModel, subject: ModelSubject, cases: Sequence[EvaluationCase], feature: np.ndarray
) -> Tensor:
    """As ``IndexedModel.generate``, but with FP32 features for the pins. ID embeddings are those of the release."""
    indexed = subject.indexed
    requests = [case.request(subject.budget) for case in cases]
    batch = embedded_histories(model, indexed.embed_ids, requests)
    content = dequantize(batch.feature, batch.scale)
    scale = torch.ones_like(batch.scale)
    # Read by the host once per batch of a study, which serves nobody.
    for case, start in zip(cases, batch.layout.token[:, 0].tolist(), strict=True):
        history = case.history.take(slice(-model.config.max_history, None))
        row = indexed.catalogue.rows_of(history.item_key)
        known = np.flatnonzero((row >= 0) & (history.item_type == ItemType.PIN))
        content[start + 1 + known] = torch.from_numpy(feature[row[known]]).to(content.device)  # behind the start token
    exact = replace(batch, feature=content, scale=scale)
    context = request_context(requests, indexed.generation, device=content.device)
    return generate(model, exact, context, indexed.generation.offsets)


@torch.inference_mode()
def _represent(
    model: SequenceModel, embed_ids: Callable[[Tensor], Tensor], catalogue: ItemCatalogue, feature: np.ndarray
) -> np.ndarray:
    """Item representations of FP32 features, float32 ``[V, D]``."""
    device = model.start_token.device
    made = []
    for start in range(0, len(catalogue), _ITEMS_AT_ONCE):
        content = torch.from_numpy(feature[start : start + _ITEMS_AT_ONCE]).to(device)
        key = torch.from_numpy(np.array(catalogue.item_key[start : start + _ITEMS_AT_ONCE]))
        scale = torch.ones(len(content), device=device)
        # Faiss searches on the host: one copy per chunk of the catalogue.
        made.append(model.represent_pins(content, scale, embed_ids(key).to(device, content.dtype)).cpu().numpy())
    return np.concatenate(made)


def _ratio(hit: np.ndarray, reference: np.ndarray) -> Interval:
    return ratio_interval(hit.mean(axis=1), reference.mean(axis=1))
