"""Encoded histories and events: round trips, the order of keys, and bytes of other formats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinrec_core.errors import StoreError
from pinrec_core.history import DTYPES, History, ItemType
from pinrec_core.limits import ID
from signal_service.event_codec import decode_event, event_key, event_value, range_start
from signal_service.history_codec import decode_history, encode_history
from signal_service.store import Event

INT64 = st.integers(-(2**63), 2**63 - 1)
EVENTS = st.builds(
    Event,
    event_id=st.text(min_size=1, max_size=8),
    user_key=st.binary(min_size=1, max_size=6),
    item_key=INT64,
    item_type=st.sampled_from(ItemType),
    action=st.text(max_size=8),
    surface=st.text(max_size=8),
    timestamp=INT64,
    query=st.text(max_size=30),
)


@pytest.mark.parametrize(("T", "F"), [(0, 4), (1, 1), (7, 33), (300, 256)])
def test_history_round_trip(T, F):
    rng = np.random.default_rng(T)
    shape = {"feature": (T, F)}
    history = History(**{n: rng.integers(0, 120, shape.get(n, T)).astype(dtype) for n, dtype in DTYPES.items()})
    decoded = decode_history(encode_history(history))
    for name, dtype in DTYPES.items():
        values = getattr(decoded, name)
        np.testing.assert_array_equal(values, getattr(history, name))
        assert values.dtype == dtype
        assert values.flags.aligned
        assert not values.flags.owndata


def test_foreign_history_bytes():
    data = encode_history(History.empty(4))
    for broken, message in [
        (b"", "has 0 bytes"),
        (b"\x09" + data[1:], "has version 9: expected 1"),
        (data + b"x", "has 17 bytes: expected 16"),
    ]:
        with pytest.raises(StoreError, match=message):
            decode_history(broken)


@given(EVENTS)
def test_event_round_trip(event):
    assert decode_event(event_key(event), event_value(event)) == event


@given(EVENTS, EVENTS)
def test_keys_sort_by_user_then_time_then_id(a, b):
    if a.user_key == b.user_key:
        ours = (a.timestamp, a.event_id.encode()), (b.timestamp, b.event_id.encode())
        assert (event_key(a) < event_key(b)) == (ours[0] < ours[1])
    else:
        bounds = range_start(a.user_key, -(2**63)), range_start(a.user_key, 2**63)
        assert not bounds[0] <= event_key(b) < bounds[1]


def test_keys_hold_the_longest_id_and_no_longer_one():
    assert range_start(b"x" * ID.most, 1)
    with pytest.raises(StoreError, match="user_key has 1025 bytes: expected 1 to 1024"):
        range_start(b"x" * (ID.most + 1), 1)


def test_foreign_event_bytes():
    key = range_start(b"u", 1) + b"id"
    for broken in (b"", b"\x07" * 20, b"\x01" * 40):
        with pytest.raises(StoreError):
            decode_event(key, broken)
