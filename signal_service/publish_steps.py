"""Who asked to be forgotten, as the next batch has to know."""

from __future__ import annotations

from contextlib import closing

from signal_service.event_stores import open_reader


def forgotten_users(realtime: str) -> dict[bytes, int]:
    """Every user who asked to be forgotten, by store key, with the time up to which. Raises ``StoreError``."""
    with closing(open_reader(realtime)) as reader:
        reader.refresh()
        return dict(reader.forgotten())
