"""Encodes a history as bytes: a header, then the array of each field as in memory. Little-endian and versioned."""

from __future__ import annotations

import struct

import numpy as np

from pinrec_core.errors import StoreError
from pinrec_core.history import DTYPES, History

VERSION = 1
_HEADER = struct.Struct("<HHIQ")  # version, F, T, reserved: 16 bytes keep the arrays behind it aligned
_ORDER = sorted(DTYPES, key=lambda name: (-DTYPES[name].itemsize, name))  # with wide elements first, all are aligned
_STORED = {name: dtype.newbyteorder("<") for name, dtype in DTYPES.items()}


def encode_history(history: History) -> bytes:
    """The bytes of a history of any length."""
    T, F = history.feature.shape
    parts = [_HEADER.pack(VERSION, F, T, 0)]
    parts += [getattr(history, name).astype(_STORED[name], copy=False).tobytes() for name in _ORDER]
    return b"".join(parts)


def decode_history(data: bytes) -> History:
    """The history in ``data``, as read-only views of these bytes. Raises ``StoreError`` for bytes of another format."""
    if len(data) < _HEADER.size:
        raise StoreError(f"a stored history has {len(data)} bytes: expected at least {_HEADER.size}")
    version, F, T, _ = _HEADER.unpack_from(data)
    if version != VERSION:
        raise StoreError(f"a stored history has version {version}: expected {VERSION}; build the view again")
    expected = _HEADER.size + T * (F + sum(DTYPES[name].itemsize for name in _ORDER if name != "feature"))
    if len(data) != expected:
        raise StoreError(f"a stored history of T={T}, F={F} has {len(data)} bytes: expected {expected}")
    columns: dict[str, np.ndarray] = {}
    offset = _HEADER.size
    for name in _ORDER:
        count = T * F if name == "feature" else T
        values = np.frombuffer(data, _STORED[name], count, offset).astype(DTYPES[name], copy=False)
        columns[name] = values.reshape(T, F) if name == "feature" else values
        offset += values.nbytes
    return History(**columns)
