"""The torch device that a caller named, checked before anything is loaded onto it."""

from __future__ import annotations

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
