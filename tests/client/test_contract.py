"""The client's own table of tensors equals the server's contract, which the client cannot import."""

from __future__ import annotations

from collections.abc import Sequence

from pinrec_client import contract as client

from pinrec_core import contract as server


def _table(tensors: Sequence[server.TensorSpec]) -> dict[str, str]:
    ids = (server.DType.USER_ID, server.DType.ITEM_ID)
    return {t.name: client.ID if t.dtype in ids else str(t.dtype) for t in tensors}


def test_names_of_the_models():
    assert server.ENSEMBLE.name == client.ENSEMBLE
    assert server.SIGNAL_INGEST.name == client.INGEST


def test_tensors():
    assert _table(server.ENSEMBLE.inputs) == client.REQUEST
    assert _table(server.ENSEMBLE.outputs) == client.RESPONSE
    assert _table(server.SIGNAL_INGEST.inputs) == client.EVENTS
    assert _table(server.SIGNAL_INGEST.outputs) == client.STORED


def test_only_the_user_is_required():
    assert [t.name for t in server.REQUEST if not t.optional] == ["user_id"]


def test_the_wish_to_be_forgotten():
    assert server.FORGET_USER == client.FORGET_USER


def test_what_a_budget_may_sum_to():
    assert server.BUDGET_TOLERANCE == client.BUDGET_TOLERANCE
