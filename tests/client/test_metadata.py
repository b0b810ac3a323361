"""What goes beside a message: the user's share, the API key, the trace."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pinrec_client import InvalidRequestError, user_share
from pinrec_client.metadata import authorization, of_user, trace

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("user_id", "share"), [(123456789, 62), (17, 82), ("17", 82), (0, 9), (-17, 76), ("Zoë 17", 70)]
)
def test_a_user_has_the_same_share_for_ever(user_id: int | str, share: int):
    """The values are fixed, because a proxy may route by them. That of 123456789 is the check value of CRC-32."""
    assert user_share(user_id) == share


def test_integers_of_every_kind_and_their_text_have_one_share():
    for user in range(1000):
        assert user_share(user) == user_share(np.int64(user)) == user_share(str(user))


@pytest.mark.parametrize("form", ["{}", "user-{}", "{:012d}"])
def test_shares_are_even(form: str):
    users = Counter(user_share(form.format(user)) for user in range(100_000))
    assert set(users) == set(range(100))
    # 1000 are expected in each, with a deviation of 31 if it were chance: five of them are passed once in 10,000 runs.
    assert max(abs(count - 1000) for count in users.values()) < 160


def test_a_user_is_routed_by_the_share():
    assert of_user(17) == (("pinrec-user", str(user_share(17))),)


def test_a_key_is_a_bearer():
    assert authorization("s3cret") == (("authorization", "Bearer s3cret"),)
    assert authorization(None) == ()


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel", 5])
def test_a_malformed_key_is_refused_and_not_shown(key: str):
    with pytest.raises(InvalidRequestError, match="api_key") as caught:
        authorization(key)
    assert not key or str(key) not in str(caught.value)


def test_a_trace_is_passed_on():
    assert trace(TRACEPARENT) == (("traceparent", TRACEPARENT),)
    assert trace(None) == ()


@pytest.mark.parametrize("traceparent", ["", "00-0af7-b7ad-01", TRACEPARENT.upper(), TRACEPARENT + "\n", 5])
def test_a_malformed_trace_is_refused(traceparent: str):
    with pytest.raises(InvalidRequestError, match="traceparent="):
        trace(traceparent)
