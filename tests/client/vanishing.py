"""A machine on the way to a service, which can vanish: it then acknowledges nothing and sends no reset."""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SO_ATTACH_FILTER = 26  # of Linux; Python has no name for it
RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A program for the kernel's packet filter: no byte of any packet reaches the socket, nor even its TCP."""


class Machine:
    """Passes on what comes to ``url``, until it vanishes."""

    def __init__(self, service: str) -> None:
        host, _, port = service.rpartition(":")
        self._service = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._outside = [self._listener]
        self._inside: list[socket.socket] = []

    def vanish(self) -> None:
        program = ctypes.create_string_buffer(RETURN_NOTHING)
        for side in self._outside:
            side.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))

    def serve(self) -> None:
        while True:
            try:
                outside, _ = self._listener.accept()
            except OSError:  # closed
                return
            inside = socket.create_connection(self._service)
            self._outside.append(outside)
            self._inside.append(inside)
            for ends in ((outside, inside), (inside, outside)):
                threading.Thread(target=_pass_on, args=ends, daemon=True).start()

    def close(self) -> None:
        for side in self._outside + self._inside:
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            side.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def machine_before(service: str) -> Iterator[Machine]:
    machine = Machine(service)
    thread = threading.Thread(target=machine.serve)
    thread.start()
    try:
        yield machine
    finally:
        machine.close()
        thread.join()
