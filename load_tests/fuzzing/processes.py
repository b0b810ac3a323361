"""The processes of a server and their memory, as the system tells them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

SHARED = "/dev/shm/"
TRITON = ("tritonserver", "triton_python")
"""Beginnings of the names of the processes that serve. A process that comes and goes beside them is no finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """``serving``: number → name of the processes of Triton. ``private_bytes`` is the memory of the whole tree, each
    page shared by n processes counted as 1/n; ``shared_bytes`` is what its processes exchange tensors through."""

    serving: Mapping[int, str]
    private_bytes: int
    shared_bytes: int

    @staticmethod
    def of(pid: int) -> Processes:
        """The tree below ``pid``, without the process that asks and what it started.

        Raises ``psutil.NoSuchProcess`` where there is none.
        """
        serving, private, regions = {}, 0, {}
        for process in _tree(psutil.Process(pid)):
            try:
                name = process.exe().rpartition("/")[2] or process.name()
                for mapped in process.memory_maps():
                    if mapped.path.startswith(SHARED):
                        regions[mapped.path] = _bytes(mapped.path)
                    else:
                        private += mapped.pss
            except psutil.Error:  # it has ended
                continue
            if name.startswith(TRITON):
                serving[process.pid] = name
        return Processes(serving=serving, private_bytes=private, shared_bytes=sum(regions.values()))


def triton_address(pid: int) -> str | None:
    """Where the Triton below ``pid`` listens for gRPC, by its command line: behind the front, where there is one."""
    for process in _tree(psutil.Process(pid)):
        words = dict(word.partition("=")[::2] for word in process.cmdline())
        if process.name() == TRITON[0]:
            return f"{words.get('--grpc-address', '127.0.0.1')}:{words['--grpc-port']}".replace("0.0.0.0", "127.0.0.1")
    return None


def _tree(process: psutil.Process) -> Iterator[psutil.Process]:
    if process.pid == os.getpid():
        return
    yield process
    try:
        children = process.children()
    except psutil.NoSuchProcess:
        return
    for child in children:
        yield from _tree(child)


def _bytes(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0
