"""INT8 features against FP32: how far the directions are apart, and how many bytes are left."""

from __future__ import annotations

from typing import Any

import numpy as np

from pinrec_core.representations.quantization import dequantize, quantize_int8

WIDTHS = (64, 128, 384)


def run(vectors: int) -> list[dict[str, Any]]:
    """A row for each width: random directions, which have no structure that a code could use."""
    rows = []
    for width in WIDTHS:
        full = np.random.default_rng(width).normal(size=(vectors, width)).astype(np.float32)
        full /= np.linalg.norm(full, axis=1, keepdims=True)
        feature, scale = quantize_int8(full)
        back = dequantize(feature.astype(np.float32), scale)
        cosine = (back * full).sum(axis=1) / np.linalg.norm(back, axis=1)
        rows.append(
            {"width": width, "vectors": vectors, "median cosine": float(np.median(cosine)),
             "least cosine": float(cosine.min()), "bytes over FP32": (feature.nbytes + scale.nbytes) / full.nbytes}
        )  # fmt: skip
    return rows
