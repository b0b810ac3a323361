"""Static buffers: aligned views of one block, which one copy moves."""

from __future__ import annotations

import torch

from pinrec_core.generation.static_buffers import ALIGNMENT, StaticBuffers

SHAPES = [(torch.int8, (3, 5)), (torch.float16, (7, 0)), (torch.int64, (2,)), (torch.float64, (2, 2, 2))]


def test_tensors_have_their_types_and_shapes_and_begin_where_cuda_would_put_them():
    buffers = StaticBuffers(SHAPES, torch.device("cpu"))
    assert [(values.dtype, tuple(values.shape)) for values in buffers.on_host] == SHAPES
    assert [(values.dtype, tuple(values.shape)) for values in buffers.on_device] == SHAPES
    begins = [values.storage_offset() * values.element_size() for values in buffers.on_device]
    assert begins == [0, ALIGNMENT, ALIGNMENT, 2 * ALIGNMENT]
    assert buffers.num_bytes == 3 * ALIGNMENT


def test_one_copy_moves_all_tensors_to_the_same_places():
    buffers = StaticBuffers(SHAPES, torch.device("cpu"))
    addresses = [values.data_ptr() for values in buffers.on_device]
    for value in (1, 2):
        for values in buffers.on_host:
            values.fill_(value)
        buffers.to_device()
        assert all((values == value).all() for values in buffers.on_device)
    for values in buffers.on_device:
        values.fill_(3)
    assert all((values == 2).all() for values in buffers.on_host)
    buffers.to_host()
    assert all((values == 3).all() for values in buffers.on_host)
    assert [values.data_ptr() for values in buffers.on_device] == addresses
