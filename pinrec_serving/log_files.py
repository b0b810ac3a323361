"""Where the logs of a service lie, and how they are opened: nobody else decides which file is written to."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from pinrec_core.errors import ConfigError, ServerError


def default_log_folder(grpc_port: int) -> Path:
    """The folder of a service that was given none: among everybody's temporary files, but for this user alone.

    Raises ``ConfigError`` where somebody else has made something of that name, such as a link to a folder elsewhere.
    """
    folder = Path(tempfile.gettempdir()) / f"pinrec-serve-{grpc_port}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(stat.S_IRWXU)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigError(f"{folder}: expected a folder of this user for the logs; name another one with --log-dir")
    folder.chmod(stat.S_IRWXU)  # one that is there already may be open to others
    return folder


def open_log(file: Path) -> BinaryIO:
    """Open a log to append to it; its folder is made where there is none. A symbolic link is not followed.

    Raises ``ServerError`` where it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return open(file, "ab", opener=_without_following)
    except OSError as error:
        raise ServerError(
            f"{file}: expected a file to write the log to, and no symbolic link ({error.strerror})"
        ) from error


def _without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
