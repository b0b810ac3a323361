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
from urllib.parse import unquote, urlsplit

from pinrec_core.errors import ConfigError, require
from pinrec_core.store_location import PASSWORD_VARIABLE

PORT = 6379
SCHEMES = {
    "redis": (False, False),
    "rediss": (True, False),
    "redis-cluster": (False, True),
    "rediss-cluster": (True, True),
}
"""By scheme: whether connections use TLS, and whether it is a cluster."""


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
        scheme, _, rest = location.partition("://")
        place, _, path = rest.partition("/")
        user, _, hosts = place.rpartition("@")
        if ":" in user or "@" in path:
            raise ConfigError(f"realtime: expected no password in a location; put it into {PASSWORD_VARIABLE}")
        tls, cluster = SCHEMES.get(scheme, (False, False))
        _require(scheme in SCHEMES, location, f"one of {list(SCHEMES)} before ://")
        _require(cluster or "," not in hosts, location, "one host; redis-cluster:// takes several")
        path = path.rstrip("/")
        _require(not path or (path.isascii() and path.isdigit()), location,
                 "nothing after the host but the number of a database, as in redis://host:6379/0")  # fmt: skip
        database = int(path or "0")
        _require(not cluster or database == 0, location, "database 0: a cluster has no other")
        nodes = tuple(_node(text, location) for text in hosts.split(","))
        return RedisLocation(nodes=nodes, tls=tls, cluster=cluster, database=database, user=unquote(user) or None)

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
    except ValueError:
        host, port = None, None
    _require(bool(host) and port != 0 and not set(text) & set("?#"), location, f"host:port, got {text!r}")
    return str(host), PORT if port is None else port


def _require(condition: bool, location: str, expected: str) -> None:
    require(condition, "realtime", location, expected, error=ConfigError)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
