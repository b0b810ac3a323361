"""External ids, their 64-bit keys, and rows of the catalogue. They are different things with different names:

* ``item_id`` and ``user_id`` are the ids in the log and in requests, an int64 or a string.
* ``item_key`` is an int64: the id itself, or the xxh64 of the string. The hashed ID tables and the signal stores use
  it, because it is the same in every release.
* ``item_row`` is the position in the catalogue and in the index of one release. It has no meaning outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import xxhash

from pinrec_core.errors import InvalidRequestError


class IdKind(StrEnum):
    """The type of the ids in a dataset."""

    INT = "int64"
    STRING = "string"


def string_key(text: str) -> int:
    """The int64 key of a string: the xxh64 of its UTF-8 bytes, reinterpreted as signed."""
    return int(np.uint64(xxhash.xxh64_intdigest(text.encode("utf-8"))).astype(np.int64))


def string_keys(texts: Sequence[str]) -> np.ndarray:
    """The ``string_key`` of each of n texts: int64 ``[n]``."""
    digests = np.fromiter((xxhash.xxh64_intdigest(t.encode("utf-8")) for t in texts), np.uint64, len(texts))
    return digests.view(np.int64)


def item_keys(item_ids: Sequence[int] | Sequence[str] | np.ndarray, kind: IdKind) -> np.ndarray:
    """The keys of n external item ids: int64 ``[n]``."""
    if kind is IdKind.STRING:
        return string_keys([str(i) for i in item_ids])
    return np.asarray(item_ids, dtype=np.int64)


def user_store_key(user_id: int | str, kind: IdKind) -> bytes:
    """The key of a user in a signal store. The order of the keys of integer ids, as bytes, is that of the ids.

    Raises ``InvalidRequestError`` for an id of the other kind.
    """
    if kind is IdKind.INT:
        if not isinstance(user_id, (int, np.integer)):
            raise InvalidRequestError(f"user_id={user_id!r}: expected an integer, this dataset's user ids are int64")
        return (int(user_id) + (1 << 63)).to_bytes(8, "big")
    if not isinstance(user_id, str):
        raise InvalidRequestError(f"user_id={user_id!r}: expected a string, this dataset's user ids are strings")
    return user_id.encode("utf-8")
