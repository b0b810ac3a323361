"""What the tests of containers need: Compose, an engine, and patience."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from benchmarks.compose_project import has_compose, has_engine


def need_compose() -> None:
    if not has_compose():
        pytest.skip("no `docker compose` on this machine")


def need_engine() -> None:
    need_compose()
    if not has_engine():
        pytest.skip("no Docker engine runs on this machine")


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Two busy cores need a minute to load a server again; whoever waits longer waits in vain."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.2)
