"""The one string that says where a store is; a password is never part of it."""

from __future__ import annotations

import pytest

from pinrec_core.errors import ConfigError
from signal_service.redis_location import RedisLocation, password


def test_one_server_and_a_cluster_with_and_without_tls():
    one = RedisLocation.parse("redis://cache.example:7000/3")
    assert one == RedisLocation(nodes=(("cache.example", 7000),), tls=False, cluster=False, database=3)
    several = RedisLocation.parse("rediss-cluster://a:1,b,[::1]:2")
    assert several == RedisLocation(nodes=(("a", 1), ("b", 6379), ("::1", 2)), tls=True, cluster=True)
    assert RedisLocation.parse("rediss://a").tls
    assert RedisLocation.parse("redis://writer%2D1@a").user == "writer-1"
    assert RedisLocation.parse("redis://@a").user is None


@pytest.mark.parametrize("location", ["redis://a:1/3", "rediss-cluster://a:1,[::1]:2", "redis-cluster://a:6379"])
def test_it_is_shown_as_it_is_written(location):
    assert str(RedisLocation.parse(location)) == location


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://a:1", "one of"),
        ("redis://a:1,b:2", "one host"),
        ("redis://", "host:port"),
        ("redis-cluster://a:1,", "host:port"),
        ("redis://a:0", "host:port"),
        ("redis://a:99999", "host:port"),
        ("redis://a:x", "host:port"),
        ("redis://a/one", "number of a database"),
        ("redis-cluster://a/1", "database 0"),
        ("redis://a?password=x", "host:port"),
        ("redis://[::1", "host:port"),
        ("redis://a/0?x=1", "number of a database"),
        ("redis://a/0/1", "number of a database"),
    ],
)
def test_what_is_malformed_is_refused(location, expected):
    with pytest.raises(ConfigError, match=expected):
        RedisLocation.parse(location)


@pytest.mark.parametrize(
    "location", ["redis://:hunter2@a", "redis://me:hunter2@a/0", "redis-cluster://me:hun@ter2@a", "x://u:hunter2@a"]
)
def test_a_password_is_refused_and_not_repeated(location):
    with pytest.raises(ConfigError, match="PINREC_REDIS_PASSWORD") as raised:
        RedisLocation.parse(location)
    assert "hun" not in str(raised.value)


def test_the_password_comes_from_the_environment():
    assert password({"PINREC_REDIS_PASSWORD": "hunter2"}) == "hunter2"
    assert password({"PINREC_REDIS_PASSWORD": ""}) is None
    assert password({}) is None
