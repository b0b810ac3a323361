"""Clear errors for a torch device that does not work, and for sizes that do not fit into memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pinrec_core.errors import ConfigError


def torch_device(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises ``ConfigError`` for a name that torch does not know and for a device that this machine lacks.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # an accelerator may fail only when it is used
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device={str(name)!r}: expected a torch device of this machine ({reason})") from error
    return device


@contextmanager
def within_memory(**sizes: int) -> Iterator[None]:
    """Raises a ``ConfigError`` that names ``sizes`` when the block asks for more memory than there is."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's CPU allocator raises a plain RuntimeError
        wanted = re.search(r"tried to allocate [\d.]+ \w+", str(error), re.IGNORECASE)
        if wanted is None and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        named = ", ".join(f"{name}={size}" for name, size in sizes.items())
        reason = "" if wanted is None else f" ({wanted[0].lower()})"
        raise ConfigError(f"{named}: expected sizes that fit into memory{reason}") from error
