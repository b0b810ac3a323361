"""The torch device that a caller named, checked before anything is loaded onto it, and what does not fit its memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pinrec_core.errors import ConfigError


def torch_device(name: torch.device | str) -> torch.device:
    """Raises ``ConfigError`` for a name that torch does not know and for a device that this machine lacks."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # to the host and back: an accelerator may fail only when it is used
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={str(name)!r}: expected a torch device of this machine ({reason})") from error
    return device


@contextmanager
def within_memory(**sizes: int) -> Iterator[None]:
    """Raises ``ConfigError`` that names ``sizes`` where the block asks for more memory than there is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # the CPU's allocator has no error class of its own
        wanted = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
        if wanted is None and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        named = ", ".join(f"{name}={size}" for name, size in sizes.items())
        reason = "" if wanted is None else f" ({wanted[0].lower()})"
        raise ConfigError(f"{named}: expected sizes that fit into memory{reason}") from error
