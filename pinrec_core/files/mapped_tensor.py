"""A tensor of a safetensors file as a mapped array: processes share its pages, and one is read when it is first used.

The library's own reading for NumPy copies, and its mapping needs torch.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import safetensors

DTYPES = {"F16": np.float16, "F32": np.float32, "I8": np.int8, "U8": np.uint8}
"""NumPy types by safetensors' names."""


def map_tensor(path: Path, name: str) -> tuple[np.ndarray, dict[str, str]]:
    """Tensor ``name`` of a file, read-only, and the file's metadata.

    Raises ``OSError`` for a file that cannot be read, and ``SafetensorError`` where it is no safetensors file, is not
    whole, has no such tensor, or has it in another type than those of ``DTYPES``.
    """
    with safetensors.safe_open(path, "np") as checked:  # that header and size of the file agree
        metadata = dict(checked.metadata() or {})
        if name not in checked.keys():  # noqa: SIM118 - the file is no mapping
            raise safetensors.SafetensorError(f"no tensor {name!r}")
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        described = json.loads(file.read(header_bytes))[name]
    if described["dtype"] not in DTYPES:
        raise safetensors.SafetensorError(f"tensor {name!r} is {described['dtype']}: expected one of {list(DTYPES)}")
    dtype, shape = np.dtype(DTYPES[described["dtype"]]), tuple(described["shape"])
    if 0 in shape:  # nothing can be mapped
        return np.empty(shape, dtype), metadata
    start = 8 + header_bytes + described["data_offsets"][0]
    return np.memmap(path, dtype, mode="r", offset=start, shape=shape).view(np.ndarray), metadata
