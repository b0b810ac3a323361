"""A command beside the service, ``-- COMMAND`` of ``pinrec serve``: when one of the two ends, so does the other."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from typing import Self

from pinrec_core.errors import ConfigError
from pinrec_serving.runtime import end_with_parent

GRACE = 10.0  # seconds in which the command may end after SIGTERM


class Companion:
    """Runs the command, as a context manager: leaving it ends the command. The kernel does, where the owner is killed.

    ``exit_code`` is that of a command that ended by itself, as a shell tells it; otherwise 0.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str]) -> None:
        """Start the command; to be called once the service is ready, from a thread that lives as long as the service.

        Raises ``ConfigError`` when it cannot be run.
        """
        try:
            self._process = subprocess.Popen(command, preexec_fn=end_with_parent)
        except OSError as error:
            raise ConfigError(f"command={command[0]!r}: expected a program that can be run ({error})") from error

    def has_ended(self) -> bool:
        """Whether the command was started and has ended, so that there is nothing to serve for any more."""
        return self._process is not None and self._process.poll() is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        if (status := self._process.poll()) is not None:
            self.exit_code = status if status >= 0 else 128 - status  # of a signal
            return
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE)
        finally:  # also when a second Ctrl-C ends the waiting
            self._process.kill()
            self._process.wait()
