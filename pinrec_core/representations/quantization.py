"""INT8 features with one scale per vector: ``vector ≈ feature · scale`` (PinRec, serving: INT8 on the wire).

Training and serving both read the quantised form, so the model never sees a feature that serving could not send.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

Array = TypeVar("Array", bound=Any)


def quantize_int8(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float ``[n, F]`` → (int8 ``[n, F]``, float32 ``[n]`` scales). A zero vector gets scale 0."""
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
