"""A folder is told from a URL, and no password gets through."""

from __future__ import annotations

from pathlib import Path

import pytest

from pinrec_core.errors import ConfigError
from pinrec_core.store_location import resolved, store_location


@pytest.mark.parametrize("text", ["signals/realtime", "/data/realtime", "redis", "a:b", "redis:/x"])
def test_folders(text):
    assert store_location(text) == Path(text)
    assert resolved(store_location(text)) == str(Path(text).resolve())


@pytest.mark.parametrize(
    "text",
    [
        "redis://host",
        "redis://host:6379/0",
        "rediss://name@host:1/2",
        "redis-cluster://a:1,b:2",
        "rediss-cluster://[::1]:7",
    ],
)
def test_urls_stay_as_they_are(text):
    assert store_location(text) == text
    assert resolved(store_location(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "realtime='': expected a folder"),
        ("http://host", "realtime='http://…': expected a folder, or a URL that begins with one of"),
        ("file:///data", "realtime='file://…': expected a folder"),
        ("redis://", "realtime='redis://': expected a host"),
        ("redis:///0", "realtime='redis:///0': expected a host"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(ConfigError) as refused:
        store_location(text)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("text", ["redis://:s3cret@host", "redis://me:s3cret@host:1/0", "http://me:s3cret@host"])
def test_a_password_is_refused_and_not_shown(text):
    with pytest.raises(ConfigError) as refused:
        store_location(text)
    assert "s3cret" not in str(refused.value)
