"""Packed ID tables against the module that is trained: the same rows, and vectors that differ by rounding alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.representations import id_tables
from pinrec_core.representations.id_embedding import HashedIdEmbedding, rows_of_tables
from pinrec_core.representations.id_tables import IdTables, RowFormat

INT64 = st.integers(-(2**63), 2**63 - 1)


@pytest.fixture(scope="module")
def trained() -> HashedIdEmbedding:
    return HashedIdEmbedding(width=24, hashes=3, rows=256).eval()


@settings(max_examples=200, deadline=None)
@given(st.lists(INT64, max_size=20))
def test_the_rows_are_those_of_the_trained_module(trained, keys):
    key = np.array(keys, np.int64)
    expected = rows_of_tables(torch.from_numpy(key), trained.hashes, trained.rows)
    assert IdTables.pack(trained).rows_of(key).tolist() == expected.T.flatten().tolist()


def test_more_keys_than_the_prepared_constants(trained, monkeypatch):
    keys = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 1000)
    expected = IdTables.pack(trained).rows_of(keys)
    monkeypatch.setattr(id_tables, "TILED_KEYS", 7)
    assert np.array_equal(IdTables.pack(trained).rows_of(keys), expected)


@torch.inference_mode()
def test_fp16_rows_are_the_trained_vectors_in_fp16(trained):
    keys = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 17, 17])
    assert torch.equal(IdTables.pack(trained)(keys), trained(keys).half())
    assert IdTables.pack(trained)(keys[:0]).shape == (0, 24)


@torch.inference_mode()
def test_int8_rows_differ_by_half_a_step_at_most(trained):
    keys = torch.arange(500)
    packed, exact = IdTables.pack(trained, RowFormat.INT8)(keys), trained(keys)
    # A step is the largest value of a row over 127. Beyond half of it come two roundings to FP16: of the scale, by
    # which a value of 127 steps may fall short, and of the result.
    largest = exact.unflatten(1, (3, 8)).abs().amax(dim=2, keepdim=True)
    allowed = (largest * (1 / 254 + 2 * 2**-11)).expand(-1, -1, 8).flatten(1)
    assert packed.dtype == torch.float16
    assert ((packed.float() - exact).abs() <= allowed).all()


def test_int8_by_hand():
    module = HashedIdEmbedding(width=4, hashes=1, rows=1)
    with torch.no_grad():
        module.tables.weight.copy_(torch.tensor([[127.0, -63.6, 0.4, -127.0]]))
    tables = IdTables.pack(module, RowFormat.INT8)
    assert tables.rows.tolist() == [[127, 256 - 64, 0, 256 - 127, 0x00, 0x3C]]  # 0x3C00 is 1 in FP16
    assert tables(torch.tensor([5])).tolist() == [[127.0, -64.0, 0.0, -127.0]]
    with torch.no_grad():
        module.tables.weight.zero_()
    assert IdTables.pack(module, RowFormat.INT8)(torch.tensor([5])).tolist() == [[0.0] * 4]


@pytest.mark.parametrize(("row_format", "share"), [(RowFormat.FP16, 0.5), (RowFormat.INT8, 0.3)])
def test_memory_against_fp32(row_format, share):
    module = HashedIdEmbedding(width=64, hashes=2, rows=64)
    packed = IdTables.pack(module, row_format)
    assert packed.rows.nbytes <= share * module.tables.weight.numel() * 4
    assert (packed.width, packed.row_width) == (64, 32)


def test_rows_are_packed_in_chunks(trained, monkeypatch):
    for row_format in RowFormat:
        whole = IdTables.pack(trained, row_format).rows
        monkeypatch.setattr(id_tables, "CHUNK_ROWS", 100)
        assert np.array_equal(IdTables.pack(trained, row_format).rows, whole)
        monkeypatch.undo()


def test_tables_without_width():
    tables = IdTables.pack(HashedIdEmbedding(width=0, hashes=2, rows=8))
    tables.populate()
    assert tables(torch.arange(3)).shape == (3, 0)
