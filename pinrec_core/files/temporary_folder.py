"""A temporary folder that belongs to a process and is removed with it, even when the process is killed.

This module does not know what the folder holds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pinrec_core.files.held_folder import make_held, remove_left_over


class TemporaryFolder:
    """A folder in the system's temporary folder, named ``prefix`` and something random, removed by ``close``.

    A killed process cannot remove its own folder. Therefore, making a folder first removes those of the same prefix
    that no process holds. A child process that is passed the descriptor ``lock`` holds the folder too.
    """

    def __init__(self, prefix: str) -> None:
        for left_over in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            remove_left_over(left_over)
        self.path, self.lock = make_held(lambda: Path(tempfile.mkdtemp(prefix=prefix)))
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self.lock)
