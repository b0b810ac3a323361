"""Real ``redis-server`` processes on free ports: one, or a cluster of three. They end with the program."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

MISSING = "redis-server is not installed"
STARTING_SECONDS = 30.0
SLOTS = 16_384


def installed() -> bool:
    return shutil.which("redis-server") is not None


class RedisServer:
    """One process with its data in ``folder``, on a free port that it keeps from one start to the next."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bus_port(self) -> int:
        """Of a node of a cluster: where the other nodes talk to it."""
        return int(self._options[self._options.index("--cluster-port") + 1])

    @property
    def location(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client for what a store cannot do. It waits as long as it takes."""
        return redis.Redis(port=self.port, protocol=2, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        """Returns once it answers; a password that it wants, or data that it loads, is an answer, loaded or not."""
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                 "--save", "", "--daemonize", "no", *self._options]  # fmt: skip
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        self.wait()

    def wait(self) -> None:
        until = time.monotonic() + STARTING_SECONDS
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.ConnectionError as error:
                if time.monotonic() > until or self._process is None or self._process.poll() is not None:
                    log = (self.folder / "log").read_text("utf-8", "replace")[-2000:]
                    raise RuntimeError(f"redis-server does not answer: {error}\n{log}") from error
                time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Ends the process if it runs, and waits for its end."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


@contextlib.contextmanager
def cluster(folder: Path, *options: str) -> Iterator[Sequence[RedisServer]]:
    """Three primaries without replicas that share the slots."""
    with contextlib.ExitStack() as stack:
        servers = []
        for i in range(3):
            words = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
            servers.append(stack.enter_context(RedisServer(folder / str(i), *words, *options)))
        first = servers[0]
        for i, server in enumerate(servers):
            with server.client() as client:
                start, end = SLOTS * i // 3, SLOTS * (i + 1) // 3 - 1
                client.execute_command("CLUSTER ADDSLOTSRANGE", start, end)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
                if server is not first:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, first.bus_port)
        wait_for_cluster(servers)
        yield servers


def wait_for_cluster(servers: Sequence[RedisServer]) -> None:
    """Until every node says that all slots are served."""
    until = time.monotonic() + STARTING_SECONDS
    for server in servers:
        with server.client() as client:
            while "cluster_state:ok" not in (info := str(client.execute_command("CLUSTER INFO"))) and (
                "'cluster_state': 'ok'" not in info
            ):
                if time.monotonic() > until:
                    raise RuntimeError(f"the cluster of {server.port} does not come up: {info}")
                time.sleep(0.05)


def cluster_location(servers: Sequence[RedisServer]) -> str:
    return "redis-cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
