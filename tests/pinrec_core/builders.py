"""Small random inputs for model tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pinrec_core.config.presets import PRESETS
from pinrec_core.config.sections import ModelConfig, Variant
from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.catalogue import write_catalogue
from pinrec_core.dataset.manifest import SEQUENCES, DatasetManifest
from pinrec_core.history import NO_OUTCOME, History, ItemType
from pinrec_core.ids import IdKind
from pinrec_core.model.collate import collate
from pinrec_core.model.packed_histories import PackedHistories, pack
from pinrec_core.model.pinrec import PinRec
from pinrec_core.model.sequence_model import HistoryBatch
from pinrec_core.representations.quantization import quantize_int8

F, O, SURFACES = 12, 3, 4


def tiny_config(variant: Variant = Variant.MT_OC, **changes: int) -> ModelConfig:
    small = {"hidden_width": 32, "item_width": 16, "id_width": 8, "id_rows": 256, "max_history": 24} | changes
    return ModelConfig(
        **{**PRESETS["tiny"].model, **small}, variant=variant, num_outcomes=O, num_surfaces=SURFACES, feature_width=F
    )


def tiny_model(variant: Variant = Variant.MT_OC, **changes: int) -> PinRec:
    torch.manual_seed(0)
    model = PinRec(tiny_config(variant, **changes)).eval()
    for parameter in model.parameters():  # larger weights than at the start: differences must be visible
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def random_history(length: int, seed: int, queries: bool = True) -> History:
    random = np.random.default_rng(seed)
    item_type = (random.random(length) < (0.2 if queries else 0.0)).astype(np.uint8)
    outcome = np.where(item_type == ItemType.QUERY, NO_OUTCOME, random.integers(0, O, length)).astype(np.int16)
    return History(
        item_key=random.integers(0, 1 << 40, length),
        item_type=item_type,
        outcome=outcome,
        surface=random.integers(0, SURFACES, length).astype(np.int16),
        timestamp=np.sort(random.integers(1_500_000_000, 1_600_000_000, length)),
        feature=random.integers(-127, 128, (length, F)).astype(np.int8),
        scale=random.random(length).astype(np.float32) / 127,
    )


def batch_of(model: PinRec, histories: list[History], surface: int = 1, time: int = 1_600_000_100) -> HistoryBatch:
    T = max(len(h) for h in histories)
    ids = torch.zeros(len(histories), T, model.config.id_width)
    for row, history in zip(ids, histories, strict=True):
        if len(history):
            row[: len(history)] = model.id_embedding(torch.from_numpy(history.item_key)).detach()
    batch = collate(histories)
    empty = batch.length == 0
    return replace(
        batch,
        id_embedding=ids,
        start_surface=batch.start_surface.masked_fill(empty, surface),
        start_timestamp=batch.start_timestamp.masked_fill(empty, time),
    )


def write_dataset(folder: Path, *, users: int = 150, items: int = 120, seed: int = 0) -> Path:
    """A prepared dataset with sequences: each user walks through neighbouring items, so that there is something to
    learn; outcome o prefers items whose number is o modulo O."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    item_id = np.arange(1000, 1000 + items)
    feature, scale = quantize_int8(random.normal(size=(items, F)))
    write_catalogue(
        folder,
        item_key=item_id,
        item_id=pa.array(item_id),
        title=pa.array([f"item {i}" for i in item_id]),
        categories=pa.array([""] * items),
        feature=feature,
        scale=scale,
    )
    rows = []
    for user in range(users):
        T = int(random.integers(12, 40))
        row = (random.integers(0, items) + np.cumsum(random.integers(0, 3, T))) % items
        rows.append(
            {
                "user_id": user,
                "item_key": item_id[row].tolist(),
                "item_type": [0] * T,
                "outcome": (row % O).tolist(),
                "surface": random.integers(0, SURFACES, T).tolist(),
                "timestamp": (1_600_000_000 + np.cumsum(random.integers(60, 9000, T))).tolist(),
                "feature": [feature[i].tobytes() for i in row],
                "scale": scale[row].tolist(),
            }
        )
    manifest = DatasetManifest(
        name="walk", user_id_kind=IdKind.INT, item_id_kind=IdKind.INT, outcomes=("save", "click", "hide"),
        query_actions=(), ignored_actions=(), surfaces=("", "home", "related", "search"), feature_width=F,
        feature_space=f"hashed_ngram:{F}+vector:0", text_encoder=f"hashed_ngram:{F}", num_items=items, num_users=users,
        num_events=sum(len(r["item_key"]) for r in rows), outcome_share=(0.4, 0.4, 0.2),
        first_timestamp=1_600_000_000, last_timestamp=1_700_000_000,
    )  # fmt: skip
    manifest.save(folder)
    sequences = folder / SEQUENCES
    sequences.mkdir(parents=True)
    manifest.save(folder / "signals")
    types = {"item_key": pa.int64(), "item_type": pa.int8(), "outcome": pa.int16(), "surface": pa.int16()}
    types |= {"timestamp": pa.int64(), "feature": pa.binary(), "scale": pa.float32()}
    schema = pa.schema([("user_id", pa.int64()), *((name, pa.list_(kind)) for name, kind in types.items())])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sequences / "part-0.parquet")
    BatchInfo(
        end_time=manifest.last_timestamp + 1, feature_space=manifest.feature_space, outcomes=manifest.outcomes,
        surfaces=manifest.surfaces, num_users=users, num_interactions=manifest.num_events,
    ).save(sequences)  # fmt: skip
    return folder


def packed_batch_of(
    model: PinRec, histories: list[History], surface: int = 1, time: int = 1_600_000_100
) -> PackedHistories:
    """The same batch without padding, as generation reads it."""
    with torch.inference_mode():
        ids = [model.id_embedding(torch.from_numpy(history.item_key)).numpy() for history in histories]
    B = len(histories)
    return pack(histories, ids, request_surface=[surface] * B, request_time=[time] * B)
