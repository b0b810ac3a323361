"""Members of a sorted set sort as events do, and come back as they were."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from pinrec_core.errors import StoreError
from signal_service.redis_codec import (
    MAX_TIME,
    before_time,
    decode,
    encode,
    events_key,
    forgotten_key,
    from_time,
    identity_bounds,
    time_bytes,
    time_of,
    user_of,
)
from tests.signal_service.store_oracle import event

TIMES = st.integers(-MAX_TIME - 1, MAX_TIME)
IDS = st.text(st.one_of(st.sampled_from("\0\1\2aé￿😀"), st.characters(codec="utf-8")), min_size=1, max_size=6)


@given(st.lists(st.tuples(st.one_of(st.integers(-1, 1), TIMES), IDS, IDS), min_size=1, max_size=8))
@example([(0, "a", "x"), (0, "a\0", "x"), (0, "a\0\1", "x"), (0, "a\1", "x"), (0, "a\0\0", "x")])
def test_members_sort_by_time_and_id_whatever_their_values_are(rows):
    members = {}
    for time, event_id, query in rows:
        e = event(event_id, time, b"user", query=query)
        members[b"".join(encode(e))] = e
    for member, e in members.items():
        assert decode(b"user", member) == e
        low, high = identity_bounds(encode(e)[0])
        own = {m for m in members if low[1:] <= m < high[1:]}
        assert own == {
            m for m, other in members.items() if (other.timestamp, other.event_id) == (e.timestamp, e.event_id)
        }
    in_order = [members[m] for m in sorted(members)]
    keys = [(e.timestamp, e.event_id.encode()) for e in in_order]
    assert keys == sorted(keys)


@given(TIMES, TIMES)
def test_bounds_hold_what_is_between_them(a, b):
    member = b"".join(encode(event("x", a)))
    low, high = from_time(b), before_time(b)
    assert (low != b"+" and member >= low[1:]) == (a >= b)
    assert (high == b"+" or member < high[1:]) == (a < b)
    assert (time_bytes(a) < time_bytes(b)) == (a < b)
    assert time_of(time_bytes(a)) == a


def test_nothing_is_after_the_highest_time():
    assert from_time(MAX_TIME + 1) == before_time(MAX_TIME + 1) == b"+"


@given(st.binary(min_size=1, max_size=20))
@example(b"}")
@example(b"{}")
@example(b"}{x}")
def test_the_keys_of_a_user_are_on_one_node_and_name_the_user(user):
    assert key_slot(events_key(user)) == key_slot(forgotten_key(user))
    assert user_of(events_key(user)) == user_of(forgotten_key(user)) == user


def test_users_are_spread_over_the_slots():
    assert len({key_slot(events_key(b"%d" % i)) for i in range(1000)}) > 900


def test_what_is_no_event_is_refused():
    for stored in (b"", b"1234567", b"12345678no end", b"12345678id\0\1", b"12345678id\0\1\xff" + b"\0" * 30):
        with pytest.raises(StoreError, match="stored event"):
            decode(b"user", stored)
    with pytest.raises(StoreError, match="stored time"):
        time_of(b"12")
    with pytest.raises(StoreError, match="64 bits"):
        encode(event("x", MAX_TIME + 1))
