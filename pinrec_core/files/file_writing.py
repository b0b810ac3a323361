"""Files that libraries write. The libraries raise different errors on a full disk, none of which names the file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from pinrec_core.errors import StorageError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises ``StorageError`` when the block fails to write ``path``, and removes the incomplete file."""
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        path.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise StorageError(f"{path}: cannot be written ({reason})") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors. Raises ``StorageError`` when that fails."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(path):
        path.touch()
        mode = path.stat().st_mode  # as for any new file: the library's are for nobody but their owner
        safetensors.torch.save_file(plain, path, metadata=metadata)
        path.chmod(mode)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file that never changes, or a copy where the file system gives none.

    Processes that map either name share its pages. Raises ``StorageError`` when neither can be made.
    """
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or a file of another user
        with writing(target):
            shutil.copyfile(source, target)
