"""A fetch stage on real signals, and requests to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pinrec_core.config.presets import preset
from pinrec_core.config.sections import GenerationConfig, Variant
from pinrec_core.contract import DType
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.history import DTYPES
from pinrec_core.stages.base import Tensors, run_batch
from pinrec_core.stages.metrics import NO_METRICS, Metrics
from pinrec_core.stages.packing import decode_request
from signal_service.fetch_stage import SignalFetchStage
from signal_service.request import RequestParser
from signal_service.user_histories import UserHistories

NOW = 5_000
GENERATION = GenerationConfig(default_num_items=10, max_num_items=50)
NUMPY = {
    DType.INT8: np.int8, DType.UINT8: np.uint8, DType.INT16: np.int16, DType.INT32: np.int32, DType.INT64: np.int64,
    DType.FP32: np.float32, DType.BYTES: np.object_,
}  # fmt: skip


KEPT_BACK = ("item_key",)
SETTINGS = ("surface", "time", "budget", "num_items", "seed")


def make_stage(
    signals: Path,
    catalogue: ItemCatalogue,
    *,
    realtime: Path | None = None,
    max_history: int = 512,
    variant: Variant = Variant.OC,
    metrics: Metrics = NO_METRICS,
    **manifest_changes: object,
) -> SignalFetchStage:
    manifest = replace(DatasetManifest.load(signals), **manifest_changes)
    model = preset("tiny").model_for(variant=variant, num_outcomes=2, num_surfaces=3, feature_width=20)
    histories = UserHistories.open(manifest, catalogue, signals=signals, realtime=realtime, metrics=metrics)
    parser = RequestParser(manifest, model, GENERATION, lambda: NOW + 0.9)
    return SignalFetchStage(parser, histories, max_history=max_history, metrics=metrics)


def request(user: int = 7, **fields: object) -> dict[str, np.ndarray]:
    kinds = {
        "num_items": np.int32, "budget": np.float32, "query_embedding": np.float32, "exclude_seen": np.bool_,
        "request_time": np.int64, "seed": np.int64,
    }  # fmt: skip
    tensors = {"user_id": np.array([user], np.int64)}
    for name, value in fields.items():
        values = value if isinstance(value, list | np.ndarray) else [value]
        encoded = [v.encode() if isinstance(v, str) else v for v in values]
        tensors[name] = np.array(encoded, kinds.get(name, np.object_))
    return tensors


def fetch(stage: SignalFetchStage, **fields: object) -> dict[str, np.ndarray]:
    (answer,) = run_batch(stage, [request(**fields)])
    if isinstance(answer, Exception):
        raise answer
    return unpacked(answer)


def unpacked(answer: Tensors) -> dict[str, np.ndarray]:
    """The answer with each column of the packed history and each setting of the packed request under its own name."""
    request = decode_request(answer["packed_request"])
    columns = {f"history_{name}": getattr(request.history, name) for name in DTYPES if name not in KEPT_BACK}
    settings = {f"resolved_{name}": np.atleast_1d(getattr(request, name)) for name in SETTINGS}
    return {**answer, **columns, **settings}


def sources(answer: Tensors) -> tuple[str, str]:
    source, unavailable = answer["history_source"].tolist()
    return source.decode(), unavailable.decode()
