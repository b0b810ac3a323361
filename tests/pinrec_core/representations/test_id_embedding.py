"""Hashed ID tables: the hash equals one in plain Python, and rows are used evenly."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.representations.id_embedding import HashedIdEmbedding, mix64


def splitmix64(x: int) -> int:
    """The finaliser in exact integers modulo 2^64."""
    mask = (1 << 64) - 1
    x &= mask
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    return x ^ (x >> 31)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_mix64_is_the_splitmix64_finaliser(x):
    assert int(mix64(torch.tensor([x]))[0]) % 2**64 == splitmix64(x)


def test_a_gradient_holds_the_rows_that_were_looked_up_and_no_others():
    module = HashedIdEmbedding(width=16, hashes=4, rows=1 << 20)
    dense = HashedIdEmbedding(width=16, hashes=4, rows=1 << 20)
    dense.load_state_dict(module.state_dict())
    dense.tables.sparse = False
    keys, weight = torch.tensor([3, 9, 3]), torch.rand(3, 16)
    for tables in (module, dense):
        (tables(keys) * weight).sum().backward()
    assert module.tables.weight.grad.coalesce().indices().shape[1] <= 8  # two keys in four tables
    torch.testing.assert_close(module.tables.weight.grad.to_dense(), dense.tables.weight.grad)


def test_consecutive_ids_spread_over_the_rows():
    module = HashedIdEmbedding(width=2, hashes=2, rows=1024)
    with torch.no_grad():
        module.tables.weight.copy_(torch.arange(1024.0).repeat(2).unsqueeze(1))
        rows = module(torch.arange(10_000)).long()
    for column in rows.T:
        counts = torch.bincount(column, minlength=1024)
        # Poisson with mean 9.8: a row above 40 has probability below 1e-12
        assert counts.max() < 40
    both = rows[:, 0] * 1024 + rows[:, 1]
    # The two hashes are independent: 10,000 ids in 2^20 pairs collide about 48 times
    assert 10_000 - len(both.unique()) < 120
