"""External ids, the 64-bit keys behind them, and rows of the catalogue: three things with three names.

* ``item_id`` / ``user_id``: what the log and the caller use, an int64 or a string.
* ``item_key``: a stable int64, the id itself or the xxh64 of the string. It is what the hashed ID tables see and what
  signal stores keep, so an item keeps its key from one release to the next.
* ``item_row``: the position in one release's catalogue and in its index. It means nothing outside that release.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import xxhash

from pinrec_core.errors import InvalidRequestError


class IdKind(StrEnum):
    """How a dataset writes its ids."""

    INT = "int64"
    STRING = "string"


def string_key(text: str) -> int:
    """The stable int64 key of a string: xxh64 of its UTF-8 bytes, reinterpreted as signed."""
    return int(np.uint64(xxhash.xxh64_intdigest(text.encode("utf-8"))).astype(np.int64))


def string_keys(texts: Sequence[str]) -> np.ndarray:
    """``string_key`` of every text: int64 ``[n]``."""
    digests = np.fromiter((xxhash.xxh64_intdigest(t.encode("utf-8")) for t in texts), np.uint64, len(texts))
    return digests.view(np.int64)


def item_keys(item_ids: Sequence[int] | Sequence[str] | np.ndarray, kind: IdKind) -> np.ndarray:
    """Keys of external item ids: int64 ``[n]``."""
    if kind is IdKind.STRING:
        return string_keys([str(i) for i in item_ids])
    return np.asarray(item_ids, dtype=np.int64)


def user_store_key(user_id: int | str, kind: IdKind) -> bytes:
    """The bytes a signal store files a user under. Big-endian with the sign flipped, so that byte order is id order."""
    if kind is IdKind.INT:
        if not isinstance(user_id, (int, np.integer)):
            raise InvalidRequestError(f"user_id={user_id!r}: expected an integer, this dataset's user ids are int64")
        return (int(user_id) + (1 << 63)).to_bytes(8, "big")
    if not isinstance(user_id, str):
        raise InvalidRequestError(f"user_id={user_id!r}: expected a string, this dataset's user ids are strings")
    return user_id.encode("utf-8")
