"""A command that runs beside the service and ends it: ``pinrec serve … -- COMMAND``."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence

from pinrec_core.errors import ConfigError


class Companion:
    """Starts the command once the service is ready; when the command ends, so does the service, as if by SIGTERM."""

    def __init__(self) -> None:
        self.exit_code = 0

    def start(self, command: Sequence[str]) -> None:
        """Raises ``ConfigError`` when the command cannot be run."""
        try:
            process = subprocess.Popen(command)
        except OSError as error:
            raise ConfigError(f"command={command[0]!r}: expected a program that can be run ({error})") from error
        threading.Thread(target=self._follow, args=(process,), daemon=True).start()

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        self.exit_code = process.wait()
        # To the main thread, which handles signals. One to the process may be given to a thread that does not, as the
        # main thread is just then busy with the SIGCHLD of the same command; the service would sleep on.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
