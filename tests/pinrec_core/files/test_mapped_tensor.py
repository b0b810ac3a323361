"""A mapped tensor is what was written, cannot be changed, and is refused where the file is none."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors
import torch

from pinrec_core.files.file_writing import save_tensors
from pinrec_core.files.mapped_tensor import map_tensor

TENSORS = {
    "rows": torch.arange(12, dtype=torch.float16).reshape(3, 4),
    "codes": torch.arange(5, dtype=torch.uint8),
    "none": torch.empty(4, 0, dtype=torch.float16),
    "long": torch.arange(3),
}


@pytest.fixture
def file(tmp_path):
    save_tensors(TENSORS, tmp_path / "t.safetensors", metadata={"space": "here"})
    return tmp_path / "t.safetensors"


@pytest.mark.parametrize("name", ["rows", "codes", "none"])
def test_a_tensor_is_read_where_it_lies(file, name):
    array, metadata = map_tensor(file, name)
    assert np.array_equal(array, TENSORS[name].numpy())
    assert array.dtype == TENSORS[name].numpy().dtype
    assert metadata == {"space": "here"}
    if array.size:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(("name", "message"), [("other", "no tensor 'other'"), ("long", "'long' is I64: expected one")])
def test_what_cannot_be_mapped_is_refused(file, name, message):
    with pytest.raises(safetensors.SafetensorError, match=message):
        map_tensor(file, name)


def test_a_file_that_was_cut_off_is_refused(file):
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(safetensors.SafetensorError):
        map_tensor(file, "rows")
