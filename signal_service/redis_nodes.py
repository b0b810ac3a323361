"""Sends commands to one server or to the nodes of a cluster, each in one round trip. It knows no events.

Every wait is bounded: for a connection, for an answer, for a free connection of the pool. Nothing is tried again here
but what a cluster asks for, when a slot has moved, and what failed because its node was replaced.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    MovedError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from pinrec_core.errors import ConfigError, require
from signal_service.redis_location import RedisLocation, password

UNREACHABLE = (
    redis.ConnectionError,
    redis.TimeoutError,
    ClusterDownError,
    ClusterError,
    MasterDownError,
    RedisClusterException,
    OSError,
)
"""What is raised where a server does not answer or a cluster cannot serve; other errors are answers."""
SPARE_CONNECTIONS = 4  # to each node of a cluster, for scans and for reading the topology
_ELSEWHERE = (MovedError, AskError, TryAgainError)  # the node knows better where to ask, or when


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How long to wait, in seconds, how many connections to keep to each server, and when to stop asking.

    After ``breaker_failures`` calls in a row that got no answer, none is made for ``breaker_seconds``. The defaults
    suit a writer, which may wait for a disk; ``READING`` suits what a request waits for.
    """

    connect_seconds: float = 0.5
    answer_seconds: float = 1.0
    max_connections: int = 16
    breaker_failures: int = 3
    breaker_seconds: float = 2.0

    def __post_init__(self) -> None:
        for name in ("connect_seconds", "answer_seconds", "breaker_seconds"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0 seconds", error=ConfigError)
        for name in ("max_connections", "breaker_failures"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more", error=ConfigError)


READING = RedisOptions(connect_seconds=0.1, answer_seconds=0.1)
"""For readers that a request waits for, and that can do without: better no events than late ones."""


@dataclass(frozen=True, slots=True)
class Command:
    """``key`` is one of the keys in ``words``; all of them are on one node."""

    key: bytes
    words: tuple[bytes | str | int, ...]


class RedisNodes(Protocol):
    """Either kind. Errors are those of redis-py."""

    atomic: bool
    """Whether ``run`` can make several commands one transaction, whatever their keys."""

    def run(self, commands: Sequence[Command], *, transaction: bool = False) -> list[Any]:
        """The answers in the order of ``commands``. Raises the first error among them, once all have been read."""
        ...

    def primaries(self) -> Sequence[redis.Redis]: ...

    def close(self) -> None: ...


def connect(location: RedisLocation, options: RedisOptions) -> RedisNodes:
    """Of a cluster this reads the topology; a single server is not asked anything yet."""
    settings: dict[str, Any] = {
        "username": location.user,
        "password": password(),
        "socket_connect_timeout": options.connect_seconds,
        "socket_timeout": options.answer_seconds,
        "protocol": 2,  # Kvrocks speaks the third one only where it is switched on
    }
    if location.cluster:
        settings |= {"max_connections": options.max_connections + SPARE_CONNECTIONS, "ssl": location.tls}
        nodes = [ClusterNode(host, port) for host, port in location.nodes]
        return _Cluster(RedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 0), **settings), options)
    ((host, port),) = location.nodes
    pool = redis.BlockingConnectionPool(
        host=host,
        port=port,
        db=location.database,
        retry=Retry(NoBackoff(), 0),
        connection_class=redis.SSLConnection if location.tls else redis.Connection,
        max_connections=options.max_connections,
        timeout=options.answer_seconds,  # to wait for a free connection
        **settings,
    )
    return _Server(redis.Redis.from_pool(pool))


class _Server:
    """One server."""

    atomic = True

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def run(self, commands: Sequence[Command], *, transaction: bool = False) -> list[Any]:
        with self._client.pipeline(transaction=transaction) as pipeline:
            for command in commands:
                pipeline.execute_command(*command.words)
            try:
                answers = pipeline.execute(raise_on_error=False)  # it would put whole commands into the message
            except MovedError as error:  # of a transaction
                answers = [error]
        for answer in answers:
            if isinstance(answer, MovedError):
                raise ResponseError(f"it is a node of a cluster (MOVED {answer}): expected redis-cluster://")
            if isinstance(answer, Exception):
                raise answer
        return answers

    def primaries(self) -> Sequence[redis.Redis]:
        return [self._client]

    def close(self) -> None:
        self._client.close()


class _Cluster:
    """The nodes of a cluster. redis-py keeps the topology.

    Its own pipeline is not used: after a time-out it asks again for each command alone, and a batch of hundreds would
    wait for hundreds of time-outs.
    """

    atomic = False

    def __init__(self, cluster: RedisCluster, options: RedisOptions) -> None:
        self._cluster = cluster
        self._options = options
        self._free = threading.BoundedSemaphore(options.max_connections)  # the pools of redis-py do not wait here

    def run(self, commands: Sequence[Command], *, transaction: bool = False) -> list[Any]:
        """All requests are written before the first answer is awaited, so that nodes work side by side."""
        if transaction:
            raise ValueError("a cluster has no transactions over several keys")
        if not self._free.acquire(timeout=self._options.answer_seconds):
            raise redis.ConnectionError(f"no connection was free within {self._options.answer_seconds} s")
        try:
            return self._run(commands)
        finally:
            self._free.release()

    def _run(self, commands: Sequence[Command]) -> list[Any]:
        try:
            answers = self._exchange(commands)
        except redis.TimeoutError:
            self._refresh()  # the next call may find another primary; this one has waited long enough
            raise
        except redis.ConnectionError:
            self._refresh()
            answers = self._exchange(commands)
        elsewhere = [i for i, answer in enumerate(answers) if isinstance(answer, _ELSEWHERE)]
        if elsewhere:
            self._refresh()
            for i in elsewhere:  # rare and one by one: redis-py follows what the node said
                answers[i] = self._cluster.execute_command(*commands[i].words)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def primaries(self) -> Sequence[redis.Redis]:
        return [self._cluster.get_redis_connection(node) for node in self._cluster.get_primaries()]

    def close(self) -> None:
        self._cluster.close()

    def _refresh(self) -> None:
        self._cluster.nodes_manager.initialize()

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Answers, errors of single commands among them. An error of a connection ends all of it."""
        by_node: dict[str, list[int]] = {}
        clients: dict[str, redis.Redis] = {}
        for i, command in enumerate(commands):
            node = self._cluster.nodes_manager.get_node_from_slot(self._cluster.keyslot(command.key))
            by_node.setdefault(node.name, []).append(i)
            clients[node.name] = self._cluster.get_redis_connection(node)
        answers: list[Any] = [None] * len(commands)
        with contextlib.ExitStack() as release:
            connections = {name: release.enter_context(_connection(client)) for name, client in clients.items()}
            for name, positions in by_node.items():
                connection = connections[name]
                connection.send_packed_command(connection.pack_commands([commands[i].words for i in positions]))
            for name, positions in by_node.items():
                for i in positions:
                    try:
                        answers[i] = connections[name].read_response()
                    except ResponseError as error:
                        answers[i] = error
        return answers


@contextlib.contextmanager
def _connection(client: redis.Redis) -> Iterator[Any]:
    """A connection of the pool. After an error it is closed, because answers may still be on their way."""
    connection = client.connection_pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        client.connection_pool.release(connection)
