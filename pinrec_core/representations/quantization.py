"""Quantises content vectors to INT8 with one scale per vector: ``vector ≈ feature · scale`` (PinRec, serving).

Training reads the quantised form too, so the model is trained on exactly the features that serving sends.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

Array = TypeVar("Array", bound=Any)


def quantize_int8(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float ``[n, F]`` → (features, int8 ``[n, F]``; scales, float32 ``[n]``). The scale of a zero vector is 0."""
    n, _ = vectors.shape
    vectors = np.asarray(vectors, dtype=np.float32)
    scale = np.abs(vectors).max(axis=1, initial=0.0) / 127.0
    safe = np.where(scale > 0, scale, 1.0)
    return np.rint(vectors / safe[:, None]).astype(np.int8), scale.astype(np.float32)


def dequantize(feature: Array, scale: Array) -> Array:
    """Content vectors ``[..., F]`` from features ``[..., F]`` and scales ``[...]``, of NumPy or of torch alike.

    A tensor comes back in the type of its inputs, which is the caller's to choose.
    """
    return feature * scale[..., None]
