"""Where a real-time store is: a folder (``Path``), or a server on the Redis protocol (its URL, a text).

This module knows how the two are told apart and that no password may stand in a URL, because URLs are shown in logs
and in the configurations of models. What else a URL may say is checked by who opens it.
"""

from __future__ import annotations

from pathlib import Path

from pinrec_core.errors import ConfigError, require

StoreLocation = Path | str
PASSWORD_VARIABLE = "PINREC_REDIS_PASSWORD"
SCHEMES = ("redis", "rediss", "redis-cluster", "rediss-cluster")


def store_location(text: str) -> StoreLocation:
    """The location that ``text`` names. Raises ``ConfigError``, which does not show the text of a URL with a password.

    >>> store_location("redis://signals:6379/0")
    'redis://signals:6379/0'
    """
    require(text != "", "realtime", text, "a folder, or a URL such as redis://HOST:PORT/0", error=ConfigError)
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return Path(text)
    require(scheme in SCHEMES, "realtime", f"{scheme}://…", f"a folder, or a URL that begins with one of {SCHEMES}",
            error=ConfigError)  # fmt: skip
    before_host, _, host = rest.partition("/")[0].rpartition("@")
    if ":" in before_host:
        raise ConfigError(f"realtime: expected no password in a URL; put it into {PASSWORD_VARIABLE}")
    require(host != "", "realtime", text, "a host, as in redis://HOST:PORT/0", error=ConfigError)
    return text


def resolved(location: StoreLocation) -> str:
    """The location as a text that ``store_location`` reads in any process: a folder's path is made absolute."""
    return str(location.resolve()) if isinstance(location, Path) else location
