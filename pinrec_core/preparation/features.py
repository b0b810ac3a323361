"""Computes content vectors: the text part, followed by the supplied part, quantised to INT8.

Pins and queries follow one recipe, which ``space`` names. This module does not know where texts and vectors come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinrec_core.history import ItemType
from pinrec_core.representations.quantization import quantize_int8
from pinrec_core.representations.text_encoder import TextEncoder

FILE_NAME = "features.parquet"
_ROW_GROUP = 1 << 16

SCHEMA = pa.schema({"key": pa.int64(), "item_type": pa.int8(), "feature": pa.binary(), "scale": pa.float32()})


@dataclass(frozen=True, slots=True)
class ContentFeatures:
    """Computes content vectors of width F = ``encoder.width + vector_width``."""

    encoder: TextEncoder
    vector_width: int  # width of the vectors that are supplied with items; 0 where there are none

    @property
    def width(self) -> int:
        return self.encoder.width + self.vector_width

    @property
    def space(self) -> str:
        """The name of the recipe. Vectors of different spaces must not be mixed."""
        return f"{self.encoder.spec}+vector:{self.vector_width}"

    def pins(self, texts: Sequence[str], vectors: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Quantised vectors int8 ``[n, F]`` and their scales float32 ``[n]``.

        ``vectors`` is float ``[n, vector_width]``; a row of zeros stands for an item without a vector.
        """
        content = np.zeros((len(texts), self.width), np.float32)
        content[:, : self.encoder.width] = self.encoder.encode(texts)
        if vectors is not None:
            norm = np.linalg.norm(vectors, axis=1, keepdims=True)
            content[:, self.encoder.width :] = vectors / np.where(norm > 0, norm, 1.0)
        return quantize_int8(content)

    def queries(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Quantised vectors int8 ``[n, F]`` and their scales float32 ``[n]``.

        A query has zeros where a pin has its supplied vector.
        """
        return self.pins(texts)


class FeatureWriter:
    """Writes ``features.parquet`` piece by piece."""

    def __init__(self, folder: Path) -> None:
        self._writer = pq.ParquetWriter(Path(folder) / FILE_NAME, SCHEMA)

    def add(self, key: np.ndarray, item_type: ItemType, feature: np.ndarray, scale: np.ndarray) -> None:
        """Append n rows: ``key`` int64 ``[n]``, ``feature`` int8 ``[n, F]``, ``scale`` float32 ``[n]``."""
        _, F = feature.shape
        for start in range(0, len(key), _ROW_GROUP):
            part = np.ascontiguousarray(feature[start : start + _ROW_GROUP])
            n = len(part)
            packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(F), n, [None, pa.py_buffer(part)])
            self._writer.write_batch(
                pa.record_batch(
                    [key[start : start + n], np.full(n, item_type, np.int8), packed.cast(pa.binary()),
                     scale[start : start + n]],
                    schema=SCHEMA,
                )
            )  # fmt: skip

    def add_all_of(self, path: Path) -> None:
        """Append all rows of another table of features, in their order."""
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROW_GROUP, columns=SCHEMA.names):
                self._writer.write_batch(batch.cast(SCHEMA))

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
