"""Named tensors to a safetensors file. Knows no names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from pinrec_core.errors import StorageError


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Raises ``StorageError`` where they cannot be written, on a full disk for example; no half of a file is left."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(plain, path, metadata=metadata)
    except (OSError, safetensors.SafetensorError) as error:  # the library's own error hides the system's
        path.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({error})") from error
