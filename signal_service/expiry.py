"""Removes from the real-time store what every kept snapshot of the batch holds as well.

An event goes when the *oldest* snapshot holds it, so that a rollback to any snapshot loses nothing. An event that is
late for that snapshot stays, and is served, until a later snapshot is the oldest. ``sweep`` looks at all events once,
in bounded memory; ``Sweeper`` does so in a thread of the writer whenever another snapshot has become the oldest.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.errors import DataError, PinRecError
from pinrec_core.history import NO_OUTCOME, History, ItemType
from pinrec_core.stages.metrics import EVENTS_CHECKED, EVENTS_SWEPT, NO_METRICS, SWEPT_UNTIL, Metrics
from signal_service.batch_view import SEQUENCES, VIEW, BatchView
from signal_service.store import Event, EventStore, Span

FULL_HISTORY = 2048
"""Interactions of a batch history that is full, so that older ones were cut away, where its run does not say."""
CHUNK_EVENTS = 1024
PAUSE_SECONDS = 0.02
"""Between two chunks of a sweep in the writer: at most 50,000 events a second, beside those that arrive."""
CHECK_SECONDS = 30.0
"""Between two looks for another oldest snapshot."""
LAST_TIME = (1 << 63) - 1
_SNAPSHOT_NAME = re.compile(r"(\d{8}T\d{6})-(\d+)")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How many events a sweep looked at, how many of them it removed, and whether it got to its end."""

    checked: int
    removed: int
    complete: bool = True


def sweep(
    store: EventStore,
    holds: Callable[[bytes, Event], bool],
    *,
    chunk: int = CHUNK_EVENTS,
    until: int = LAST_TIME,
    proceed: Callable[[], bool] = lambda: True,
) -> Swept:
    """Remove the events before ``until`` (Unix seconds) that the batch ``holds``. It is called user by user.

    A few times ``chunk`` events are in memory. ``proceed`` is called after each ``chunk`` of events and users, and ends
    the sweep by answering False; one that was ended, or killed, is made up for by the next. Raises ``StoreError``.
    """
    checked = removed = looked_at = 0
    held: list[Event] = []
    going = True
    for user_key in store.user_keys():
        looked_at += 1
        for events in _newest_first(store, user_key, until, chunk):
            held += [event for event in events if holds(user_key, event)]
            checked += len(events)
            looked_at += len(events)
            if len(held) >= chunk:
                store.remove(held)
                removed += len(held)
                held = []
        if looked_at >= chunk:
            looked_at = 0
            going = proceed()
            if not going:
                break
    if held:
        store.remove(held)
        removed += len(held)
    return Swept(checked=checked, removed=removed, complete=going)


def _newest_first(store: EventStore, user_key: bytes, until: int, chunk: int) -> Iterator[Sequence[Event]]:
    """A user's events in groups of at most ``chunk``, the newest group first.

    A read cannot begin within a second. So a group that is not the last leaves out its oldest second, with which the
    next one begins. Of a second with more events than a group only the newest are looked at; another sweep finds the
    others.
    """
    while True:
        (found,) = store.read([Span(user_key=user_key, since=-LAST_TIME, until=until, limit=chunk)])
        events = found.events
        if len(events) < chunk:
            if events:
                yield events
            return
        oldest, newest = events[0].timestamp, events[-1].timestamp
        if oldest == newest:
            yield events
            until = oldest
        else:
            yield [event for event in events if event.timestamp > oldest]
            until = oldest + 1


class HeldBy:
    """Whether a batch view holds an event, or is past holding it. It remembers the history of the last user.

    That is so where the user's history has an interaction with the same item, outcome and time; where the event is from
    before ``start_time`` (Unix seconds, None without a window); where it is from before a history that is full; and
    for an action that no history holds.
    """

    def __init__(self, view: BatchView, *, start_time: int | None = None, full: int = FULL_HISTORY) -> None:
        self._view = view
        self._start_time = start_time
        self._full = full
        self._outcome = {name: number for number, name in enumerate(view.manifest.outcomes)}
        self._query_actions = frozenset(view.manifest.query_actions)
        self._user_key: bytes | None = None
        self._history: History | None = None

    def __call__(self, user_key: bytes, event: Event) -> bool:
        """Raises ``StoreError`` when the view cannot be read."""
        if event.timestamp >= self._view.info.end_time:
            return False
        is_query = event.item_type is ItemType.QUERY
        if event.action not in (self._query_actions if is_query else self._outcome):
            return True
        if self._start_time is not None and event.timestamp < self._start_time:
            return True
        if user_key != self._user_key:
            self._user_key, self._history = user_key, self._view.get(user_key)
        history = self._history
        if history is None or len(history) == 0:
            return False
        if len(history) >= self._full and event.timestamp < int(history.timestamp[0]):
            return True
        first, last = np.searchsorted(history.timestamp, [event.timestamp, event.timestamp + 1])
        at_its_time = slice(int(first), int(last))
        same = (
            (history.item_key[at_its_time] == event.item_key)
            & (history.item_type[at_its_time] == int(event.item_type))
            & (history.outcome[at_its_time] == (NO_OUTCOME if is_query else self._outcome[event.action]))
        )
        return bool(same.any())


def oldest_batch(signals: Path) -> Path | None:
    """The folder around the oldest batch view: the oldest finished snapshot, or ``signals`` itself, which has no
    snapshots where its batch was made before there were any. None while there is neither.
    """
    signals = Path(signals)
    finished = [
        (match[1], int(match[2]), folder)
        for folder in (signals / "snapshots").glob("*/")
        if (match := _SNAPSHOT_NAME.fullmatch(folder.name)) and (folder / "snapshot.json").is_file()
    ]
    if finished:
        return min(finished)[2]
    return signals if (signals / VIEW).is_dir() else None


class Sweeper:
    """Sweeps ``store`` in a thread of its own, once for each batch that is the oldest of ``signals``.

    ``close`` ends the thread; call it before the store is closed. A sweep that fails is logged, and tried again at the
    next look. After a restart of the writer the oldest batch is swept once more, which removes nothing twice.
    """

    def __init__(
        self,
        store: EventStore,
        signals: Path,
        *,
        metrics: Metrics = NO_METRICS,
        check_seconds: float = CHECK_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._store = store
        self._signals = Path(signals)
        self._metrics = metrics
        self._check_seconds = check_seconds
        self._pause_seconds = pause_seconds
        self._done: tuple[Path, int] | None = None  # the batch that was swept with: its folder and its end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread, and wait for it: at most as long as one chunk takes."""
        self._stop.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def sweep_if_new(self) -> Swept | None:
        """Sweep with the oldest batch, unless that was done. Raises ``PinRecError`` when it cannot be done."""
        folder = oldest_batch(self._signals)
        if folder is None:
            return None
        batch = (folder, BatchInfo.load(folder / VIEW).end_time)
        if batch == self._done:
            return None
        if self._done is not None and folder == self._signals == self._done[0]:
            return None  # a batch that is no snapshot was replaced: readers keep to the one before until they restart
        began = time.monotonic()
        start_time, full = _window_of(folder)
        with closing(BatchView.open(folder)) as view:
            holds = HeldBy(view, start_time=start_time, full=full)
            swept = sweep(self._store, holds, until=view.info.end_time, proceed=self._proceed)
        self._metrics.record(EVENTS_CHECKED, swept.checked)
        self._metrics.record(EVENTS_SWEPT, swept.removed)
        if swept.complete:
            self._done = batch
            self._metrics.record(SWEPT_UNTIL, batch[1])
            log.info("the batch %s holds %d of %d stored events from before its end; they were removed in %.1f s",
                     folder.name, swept.removed, swept.checked, time.monotonic() - began)  # fmt: skip
        return swept

    def _proceed(self) -> bool:
        return not self._stop.wait(self._pause_seconds)

    def _run(self) -> None:
        while True:
            try:
                self.sweep_if_new()
            except PinRecError as error:
                log.warning("the real-time store was not swept, it grows until it is: %s", error)
            except Exception:
                log.exception("the real-time store was not swept, it grows until it is")
            if self._stop.wait(self._check_seconds):
                return


def _window_of(folder: Path) -> tuple[int | None, int]:
    """Where the window of a batch begins, and how many interactions make a history full, as its run tells.

    Raises ``DataError`` for a description that cannot be read.
    """
    start_time, full = None, FULL_HISTORY
    for path in (folder / "snapshot.json", folder / SEQUENCES / "run.json"):
        if not path.is_file():  # batches of before there were snapshots do not have them
            continue
        try:
            said = json.loads(path.read_text("utf-8"))
            start_time = said.get("start_time", start_time)
            full = said.get("max_interactions_per_user", full)
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: expected the description of a batch ({error})") from error
        if not isinstance(start_time, int | None):
            raise DataError(f"{path}: start_time={start_time!r}: expected Unix seconds")
        if not isinstance(full, int) or full < 1:
            raise DataError(f"{path}: max_interactions_per_user={full!r}: expected a number of at least 1")
    return start_time, full
