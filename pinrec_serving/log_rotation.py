"""Keeps a log file small while the process that writes it holds it open.

The file is copied aside and then emptied, because the writer would go on writing to a file that was renamed. Whoever
writes has opened it for appending. A line that is written between the copy and the emptying is lost.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MOST_BYTES = 64 << 20
KEPT = 4


def rotate(file: Path, *, most_bytes: int = MOST_BYTES, kept: int = KEPT) -> bool:
    """Copy ``file`` to ``file.1`` and empty it once it holds ``most_bytes``. Earlier copies move up to ``file.<kept>``.

    Returns whether it did. Raises ``OSError`` when the copy cannot be written; then nothing is emptied.
    """
    if not file.is_file() or file.stat().st_size < most_bytes:
        return False
    copies = [file.with_name(f"{file.name}.{number}") for number in range(1, kept + 1)]
    unfinished = file.with_name(f"{file.name}.unfinished")
    shutil.copyfile(file, unfinished)
    for older, newer in zip(copies[:0:-1], copies[-2::-1], strict=True):
        if newer.exists():
            newer.replace(older)
    unfinished.replace(copies[0])
    os.truncate(file, 0)
    return True
