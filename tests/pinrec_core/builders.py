"""Small random inputs for model tests."""

from __future__ import annotations

import numpy as np
import torch

from pinrec_core.collate import collate
from pinrec_core.config import PRESETS, ModelConfig, Variant
from pinrec_core.history import NO_OUTCOME, History, ItemType
from pinrec_core.model import HistoryBatch, PinRec

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
    B = len(histories)
    return collate(histories, ids, request_surface=[surface] * B, request_time=[time] * B)
