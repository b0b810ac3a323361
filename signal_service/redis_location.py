"""Where a store on the Redis protocol is, as one string. This module opens no connection.

``redis://host:port/0`` is one server, ``redis-cluster://host:port,host:port`` a cluster, of which any living node is
enough. ``rediss://`` and ``rediss-cluster://`` are the same over TLS. A user name may stand before the host
(``redis://name@host``). A password may not, because the string is shown in logs and messages: it comes from the
environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from pinrec_core.errors import ConfigError, require

PASSWORD_VARIABLE = "PINREC_REDIS_PASSWORD"
PORT = 6379
SCHEMES = {
    "redis": (False, False),
    "rediss": (True, False),
    "redis-cluster": (False, True),
    "rediss-cluster": (True, True),
}
"""By scheme: whether connections use TLS, and whether it is a cluster."""


def is_redis_location(location: str) -> bool:
    """Whether the string names a store on the Redis protocol, and not a folder."""
    return location.partition("://")[0] in SCHEMES and "://" in location


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisLocation:
    """``nodes`` are hosts with ports: one for a single server, one or more of a cluster."""

    nodes: tuple[tuple[str, int], ...]
    tls: bool
    cluster: bool
    database: int = 0
    user: str | None = None

    @staticmethod
    def parse(location: str) -> RedisLocation:
        """Raises ``ConfigError``, without the string where a password stands in it."""
        parts = urlsplit(location)
        _, at, hosts = parts.netloc.rpartition("@")
        if ":" in parts.netloc[: -len(hosts) - 1 if at else 0]:
            raise ConfigError(f"realtime: expected no password in a location; put it into {PASSWORD_VARIABLE}")
        require(parts.scheme in SCHEMES, "realtime", location, f"one of {list(SCHEMES)} before ://", error=ConfigError)
        require(not parts.query and not parts.fragment, "realtime", location, "nothing after the path",
                error=ConfigError)  # fmt: skip
        tls, cluster = SCHEMES[parts.scheme]
        nodes = tuple(_node(text, location) for text in hosts.split(","))
        require(cluster or len(nodes) == 1, "realtime", location, "one host; redis-cluster:// takes several",
                error=ConfigError)  # fmt: skip
        user = unquote(parts.netloc[: -len(hosts) - 1]) if at else None
        database = _database(parts, location)
        require(not cluster or database == 0, "realtime", location, "database 0: a cluster has no other",
                error=ConfigError)  # fmt: skip
        return RedisLocation(nodes=nodes, tls=tls, cluster=cluster, database=database, user=user or None)

    def __str__(self) -> str:
        """For messages: where it is, without the user."""
        scheme = next(name for name, kind in SCHEMES.items() if kind == (self.tls, self.cluster))
        path = f"/{self.database}" if self.database else ""
        return f"{scheme}://{','.join(f'{_shown(host)}:{port}' for host, port in self.nodes)}{path}"


def password(environment: Mapping[str, str] = os.environ) -> str | None:
    return environment.get(PASSWORD_VARIABLE) or None


def _node(text: str, location: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"realtime={location!r}: expected host:port, got {text!r} ({error})") from error
    if not host or port == 0:
        raise ConfigError(f"realtime={location!r}: expected host:port, got {text!r}")
    return host, PORT if port is None else port


def _database(parts: SplitResult, location: str) -> int:
    text = parts.path.strip("/")
    require(not text or (text.isascii() and text.isdigit()), "realtime", location,
            "the number of a database after the host, as in redis://host:6379/0", error=ConfigError)  # fmt: skip
    return int(text or "0")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
