"""Packed tensors: what was packed comes back, and bytes that were not are refused with a sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinrec_core.deadline import NEVER
from pinrec_core.errors import InvalidRequestError
from pinrec_core.generation.retrieval_plan import RetrievalPlan
from pinrec_core.history import DTYPES, History
from pinrec_core.request import Request
from pinrec_core.stages.packing import decode_plan, decode_request, encode_plan, encode_request

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT16 = st.integers(-(2**15), 2**15 - 1)


def random_request(T: int = 3, F: int = 5, O: int = 2, **settings: int) -> Request:
    rng = np.random.default_rng(T)
    shape = {"feature": (T, F)}
    history = History(**{n: rng.integers(0, 120, shape.get(n, T)).astype(dtype) for n, dtype in DTYPES.items()})
    values = {"surface": 1, "time": 2, "seed": 3, "num_items": 4} | settings
    return Request(history=history, budget=rng.random(O), **values)


@pytest.mark.parametrize(("T", "F", "O"), [(0, 4, 1), (1, 1, 3), (7, 33, 2), (300, 256, 5)])
def test_a_request_comes_back_without_what_the_generator_does_not_read(T, F, O):
    request = random_request(T, F, O)
    data = encode_request(request)
    decoded = decode_request(data)
    for name in ("item_type", "outcome", "surface", "timestamp", "feature", "scale"):
        values = getattr(decoded.history, name)
        np.testing.assert_array_equal(values, getattr(request.history, name))
        assert values.dtype == DTYPES[name]
        assert np.shares_memory(values, data) or T == 0
    assert decoded.deadline == request.deadline == NEVER
    assert decoded.strength is request.strength is None
    assert decode_request(encode_request(replace(request, strength=0.75))).strength == 0.75
    assert (decoded.history.item_key == 0).all()
    np.testing.assert_array_equal(decoded.budget, request.budget.astype(np.float32))
    assert decoded.budget.dtype == np.float64


@given(surface=INT16, time=INT64, seed=INT64, num_items=INT32)
def test_settings_come_back(surface, time, seed, num_items):
    settings = {"surface": surface, "time": time, "seed": seed, "num_items": num_items}
    decoded = decode_request(encode_request(random_request(**settings)))
    assert {name: getattr(decoded, name) for name in settings} == settings


@pytest.mark.parametrize("M", [0, 1, 17])
def test_a_plan_comes_back(M):
    rng = np.random.default_rng(M)
    plan = RetrievalPlan(
        embedding=rng.random((M, 8)).astype(np.float32),
        outcome=rng.integers(0, 3, M).astype(np.int32),
        quota=rng.integers(1, 9, M).astype(np.int32),
    )
    decoded = decode_plan(encode_plan(plan))
    for name in ("embedding", "outcome", "quota"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(plan, name))
        assert getattr(decoded, name).dtype == getattr(plan, name).dtype


def changed(data: np.ndarray, at: int, byte: int) -> np.ndarray:
    copy = data.copy()
    copy[at] = byte
    return copy


def test_foreign_bytes_are_refused():
    data = encode_request(random_request())
    plan = encode_plan(RetrievalPlan(embedding=np.ones((1, 2)), outcome=np.zeros(1), quota=np.ones(1)))
    for decode, broken, message in [
        (decode_request, data[:0], "packed_request has 0 bytes: expected at least 64"),
        (decode_request, changed(data, 0, 9), "packed_request has version 9: expected 4"),
        (
            decode_request,
            data[:-1],
            rf"packed_request of T=3, F=5, O=2 has {len(data) - 1} bytes: expected {len(data)}",
        ),
        (decode_request, changed(data, 7, 255), r"packed_request of T=4278190083, F=5, O=2 has .* bytes: expected"),
        (decode_plan, plan[:3], "retrieval_plan has 3 bytes: expected at least 16"),
        (decode_plan, changed(plan, 0, 0), "retrieval_plan has version 0: expected 4"),
        (decode_plan, np.append(plan, plan[:1]), r"retrieval_plan of M=1, D=2 has 33 bytes: expected 32"),
    ]:
        with pytest.raises(InvalidRequestError, match=message):
            decode(broken)
