"""Fixtures shared by all tests. Real logs are read from ``PINREC_DATA``, else from ``../shared/data``."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A shell that runs the tests in the background has SIGINT ignored, here and in all that is started from here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real logs; tests that need it are skipped without."""
    folder = Path(os.environ.get("PINREC_DATA") or ROOT.parent / "shared" / "data").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real logs at {folder}: set PINREC_DATA")
    return folder
