"""The real-time store on a server that speaks the Redis protocol, or on a cluster of them. Meant for Apache Kvrocks.

Any number of processes may read and write at once. What belongs together is one script on the server, so no two of them
can come between each other: an append of one user, and forgetting one.

**Atomicity.** On a single server ``append`` is one transaction. A cluster has none over several nodes: there the events
of one user are stored together or not at all, and after a ``StoreError`` some users may have theirs while others do
not. Appending all of them again is right in either case.

**Forgetting.** The script that appends drops what the tombstone covers, so nothing forgotten stays on the server.
Readers check it as well, because Kvrocks does not undo half a script after a crash. A read looks at the events first
and at the tombstone after them, so it never returns what had been forgotten when it looked.

**Durability.** An append is answered by the server, so an event survives the end of the writing process. What it
survives of the server's end is the server's configuration, which ``Durability.DISK`` checks and does not change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import redis

from pinrec_core.errors import StoreError
from signal_service.circuit_breaker import CircuitBreaker
from signal_service.redis_codec import (
    EVENTS,
    FORGOTTEN,
    before_time,
    decode,
    encode,
    events_key,
    forgotten_key,
    from_time,
    identity_bounds,
    time_bytes,
    time_of,
    user_of,
)
from signal_service.redis_location import RedisLocation
from signal_service.redis_nodes import UNREACHABLE, Command, RedisNodes, RedisOptions, connect
from signal_service.store import Durability, Event, Span, UserEvents

log = logging.getLogger(__name__)

AT_ONCE = 1000  # keys of a page, and removals of a round trip
MOST = (1 << 63) - 1  # what a server takes as a number
_LATER = """
local function later(a, b)  -- of two times; Lua's own comparison would depend on the server's locale
  for i = 1, 8 do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return false
end
"""
_APPEND = (
    _LATER
    + r"""
local forgotten, new = redis.call('GET', KEYS[2]), {}
for i = 1, #ARGV, 2 do
  local id = ARGV[i]
  if not forgotten or later(id, forgotten) then
    local known = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. id, '(' .. id .. '\255', 'LIMIT', 0, 1)
    if #known == 0 then
      new[#new + 1] = 0
      new[#new + 1] = id .. ARGV[i + 1]
    end
  end
end
for i = 1, #new, 4000 do  -- Lua's stack holds 8,000 values
  redis.call('ZADD', KEYS[1], unpack(new, i, math.min(i + 3999, #new)))
end
return #new / 2
"""
)
_FORGET = (
    _LATER
    + r"""
local known, at = redis.call('GET', KEYS[2]), ARGV[1]
if known and later(known, at) then at = known end
redis.call('SET', KEYS[2], at)
redis.call('ZREMRANGEBYLEX', KEYS[1], '-', '(' .. at .. '\255')
return redis.status_reply('OK')
"""
)


class RedisEventStore:
    """An ``EventStore``. May be used by several threads."""

    def __init__(self, location: RedisLocation, nodes: RedisNodes, breaker: CircuitBreaker) -> None:
        self._location = location
        self._nodes: RedisNodes | None = nodes
        self._breaker = breaker

    @staticmethod
    def open(
        location: str,
        *,
        durability: Durability = Durability.PROCESS,
        options: RedisOptions = RedisOptions(),  # noqa: B008, frozen
    ) -> RedisEventStore:
        """Connects, so that a wrong address or password is known now.

        Raises ``ConfigError`` for a location that is none, ``StoreError`` where the server does not answer, refuses the
        password, or is not set up for ``durability``. Readers leave ``durability`` alone.
        """
        where = RedisLocation.parse(location)
        breaker = CircuitBreaker(failures=options.breaker_failures, pause_seconds=options.breaker_seconds)
        with _as_store_error(f"{where}: cannot be opened"):
            nodes = connect(where, options)
        store = RedisEventStore(where, nodes, breaker)
        try:
            with store._asking("cannot be opened"):
                for server in nodes.primaries():
                    server.ping()
            if durability is Durability.DISK:
                store._require_disk()
        except BaseException:
            store.close()
            raise
        return store

    def append(self, events: Sequence[Event]) -> None:
        """See ``EventStore``, and at the top what holds on a cluster. The first of two events of one id stays."""
        by_user: dict[bytes, dict[bytes, bytes]] = {}
        for event in events:  # all are encoded before the first is sent, so that a bad one stores nothing
            identity, value = encode(event)
            by_user.setdefault(event.user_key, {}).setdefault(identity, value)
        commands = [
            _script(_APPEND, user, [part for pair in values.items() for part in pair])
            for user, values in by_user.items()
        ]
        if commands:
            with self._asking("the events cannot be stored") as nodes:
                nodes.run(commands, transaction=nodes.atomic)

    def remove(self, events: Sequence[Event]) -> None:
        """See ``EventStore``."""
        commands = []
        for event in events:
            identity, _ = encode(event)
            key = events_key(event.user_key)
            commands.append(Command(key, ("ZREMRANGEBYLEX", key, *identity_bounds(identity))))
        for start in range(0, len(commands), AT_ONCE):
            with self._asking("the events cannot be removed") as nodes:
                nodes.run(commands[start : start + AT_ONCE])

    def forget(self, user_key: bytes, *, at: int) -> None:
        """See ``EventStore``."""
        command = _script(_FORGET, user_key, [time_bytes(at)])
        with self._asking("the user cannot be forgotten") as nodes:
            nodes.run([command])

    def refresh(self) -> None:
        """Nothing to do: a server always shows what it has stored."""
        self._open  # noqa: B018, raises once the store is closed

    def read(self, spans: Sequence[Span]) -> list[UserEvents]:
        """One round trip to each node. See ``EventReader``."""
        commands: list[Command] = []
        for span in spans:
            key, tombstone = events_key(span.user_key), forgotten_key(span.user_key)
            if span.limit > 0 and span.since < span.until:
                bounds = before_time(span.until), from_time(span.since)
                commands.append(Command(key, ("ZREVRANGEBYLEX", key, *bounds, "LIMIT", 0, min(span.limit, MOST))))
            commands.append(Command(tombstone, ("GET", tombstone)))
        if not commands:
            return []
        with self._asking("cannot be read") as nodes:
            answers = iter(nodes.run(commands))
        return [
            _user_events(span, next(answers) if span.limit > 0 and span.since < span.until else (), next(answers))
            for span in spans
        ]

    def user_keys(self) -> Iterator[bytes]:
        """See ``EventReader``. It remembers all users that it has shown, because a server may show a key twice."""
        for page in self._pages(EVENTS):
            yield from map(user_of, page)

    def forgotten(self) -> Iterator[tuple[bytes, int]]:
        """See ``EventReader``."""
        for page in self._pages(FORGOTTEN):
            with self._asking("cannot be read") as nodes:
                times = nodes.run([Command(key, ("GET", key)) for key in page])
            yield from ((user_of(key), time_of(time)) for key, time in zip(page, times, strict=True) if time)

    def close(self) -> None:
        if self._nodes is not None:
            self._nodes.close()
            self._nodes = None

    def __enter__(self) -> RedisEventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pages(self, beginning: bytes) -> Iterator[list[bytes]]:
        """The keys with a beginning, each once, of all primaries.

        Keys are chosen here and not by ``MATCH``, with which some versions of Kvrocks skip keys of a cluster.
        """
        shown: set[bytes] = set()
        with self._asking("cannot be read") as nodes:
            servers = nodes.primaries()
        for server in servers:
            cursor, first = 0, True
            while first or cursor != 0:
                with self._asking("cannot be read"):
                    cursor, found = server.scan(cursor, count=AT_ONCE)
                new = (key for key in cast(list[bytes], found) if key.startswith(beginning) and key not in shown)
                page = list(dict.fromkeys(new))
                first = False
                shown.update(page)
                if page:
                    yield page

    def _require_disk(self) -> None:
        """Raises ``StoreError`` unless every primary answers a write only when it is on the disk."""
        with self._asking("its durability cannot be checked; the server must allow CONFIG GET") as nodes:
            for server in nodes.primaries():
                found: dict[Any, Any] = {}
                for name in ("appendonly", "appendfsync", "rocksdb.write_options.sync"):
                    found.update(server.config_get(name))
                kvrocks = found.get("rocksdb.write_options.sync") == "yes"
                if not kvrocks and (found.get("appendonly"), found.get("appendfsync")) != ("yes", "always"):
                    raise StoreError(
                        f"{self._location}: got {found}: expected appendonly=yes and appendfsync=always of Redis, or "
                        f"rocksdb.write_options.sync=yes of Kvrocks, for durability {Durability.DISK.value!r}"
                    )

    @property
    def _open(self) -> RedisNodes:
        if self._nodes is None:
            raise StoreError("the real-time store is closed")
        return self._nodes

    @contextmanager
    def _asking(self, sentence: str) -> Iterator[RedisNodes]:
        """Around one exchange with the server: through the circuit breaker, with errors as ``StoreError``."""
        nodes = self._open
        with _as_store_error(f"{self._location}: {sentence}"), self._breaker.call(UNREACHABLE):
            yield nodes


def _script(text: str, user_key: bytes, values: Sequence[bytes]) -> Command:
    key = events_key(user_key)
    return Command(key, ("EVAL", text, 2, key, forgotten_key(user_key), *values))


def _user_events(span: Span, newest_first: Sequence[bytes], tombstone: bytes | None) -> UserEvents:
    """Cutting to the limit and hiding what is forgotten commute, because the forgotten events are the oldest."""
    forgotten_at = None if tombstone is None else time_of(tombstone)
    events = [decode(span.user_key, member) for member in reversed(newest_first)]
    if forgotten_at is not None:
        events = [event for event in events if event.timestamp > forgotten_at]
    return UserEvents(events, forgotten_at)


@contextmanager
def _as_store_error(sentence: str) -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, *UNREACHABLE) as error:
        raise StoreError(f"{sentence}: {error}") from error
