"""A command that runs beside the service, which stops when the command ends: ``pinrec serve … -- COMMAND``."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence

from pinrec_core.errors import ConfigError


class Companion:
    """Runs the command. When it ends, the service is stopped by a SIGTERM to its own process.

    ``exit_code`` is that of the command, 0 until it has ended.
    """

    def __init__(self) -> None:
        self.exit_code = 0

    def start(self, command: Sequence[str]) -> None:
        """Start the command; to be called once the service is ready. Raises ``ConfigError`` when it cannot be run."""
        try:
            process = subprocess.Popen(command)
        except OSError as error:
            raise ConfigError(f"command={command[0]!r}: expected a program that can be run ({error})") from error
        threading.Thread(target=self._follow, args=(process,), daemon=True).start()

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        self.exit_code = process.wait()
        # Python handles signals in the main thread only, so the signal goes to that thread. A signal to the process may
        # be delivered to another thread, because the main one is busy with the SIGCHLD of the same command; then the
        # service would not wake up.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
