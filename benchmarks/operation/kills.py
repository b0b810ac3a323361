"""``kill -9`` of each stage process under load: how soon it is noticed, how soon the service serves again, and whether
anything fails before or afterwards. Events are written meanwhile; those that were acknowledged must be in the store.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from functools import partial
from pathlib import Path

from pinrec_client import Event, PinRecClient, PinRecClientError

from benchmarks.operation.drill import Row, Setting, process_of, ready, wait_until
from benchmarks.operation.load import OK, Load
from benchmarks.server import Served
from pinrec_core.contract import ENSEMBLE, PIPELINE, SIGNAL_INGEST
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.ids import IdKind, user_store_key
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Span

ROUNDS = 20
RATE = 20.0
QUIET = 4.0  # seconds between two kills, in which nothing may fail


def run(setting: Setting) -> list[Row]:
    stages = [spec.name for spec in (*PIPELINE, SIGNAL_INGEST)]
    rounds = stages * (1 if setting.quick else ROUNDS // len(stages))
    rows: list[Row] = []
    outages: list[tuple[float, float]] = []  # from the kill until the server says that it is ready again
    with setting.server() as server:
        with Load(server.url, setting.requests()) as load, Writer(setting, server.url) as writer, load.beside(RATE):
            time.sleep(2.0)
            for number, stage in enumerate(rounds):
                setting.progress(f"round {number + 1} of {len(rounds)}: {stage}")
                entrance = SIGNAL_INGEST.name if stage == SIGNAL_INGEST.name else ENSEMBLE.name
                killed = time.perf_counter()
                os.kill(process_of(server, stage), signal.SIGKILL)
                noticed = wait_until(partial(_not_ready, server, entrance), f"{stage} was missed")
                wait_until(partial(ready, server, entrance), f"{stage} came back")
                again = time.perf_counter()
                time.sleep(2.0 if setting.quick else QUIET)
                outages.append((killed, again))
                rows.append({"stage": stage, "noticed s": noticed, "serving again s": again - killed})
        lost = writer.lost(server.realtime)
    failed = [s for s in load.sent if s.status != OK]
    outside = [s for s in failed if all(s.ended < killed or s.due > again for killed, again in outages)]
    for s in outside:  # they should not be; so that somebody can find out why
        again = max((again for _, again in outages if again < s.due), default=s.due)
        setting.progress(f"failed outside: {s.status}, {s.due - again:.2f} s after the last stage was back")
    return [
        *rows,
        {
            "stage": "all",
            "rounds": len(rounds),
            "requests": len(load.sent),
            "failed": len(failed),
            "failed outside": len(outside),
            "events acknowledged": writer.stored,
            "events lost": lost,
        },
    ]


def _not_ready(server: Served, entrance: str) -> bool:
    return not ready(server, entrance)


class Writer:
    """Writes events without pause and remembers those that were acknowledged."""

    def __init__(self, setting: Setting, url: str) -> None:
        self._dataset = DatasetManifest.load(setting.signals)
        self._url = url
        self._user = setting.requests()[0].user_id
        self._acknowledged: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def stored(self) -> int:
        return len(self._acknowledged)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def lost(self, realtime: Path) -> int:
        """How many acknowledged events the store in the folder ``realtime`` does not hold."""
        key = user_store_key(self._user, self._dataset.user_id_kind)
        with RocksDbEventStore.open_secondary(realtime) as store:
            store.refresh()
            (held,) = store.read([Span(user_key=key, since=0, until=1 << 40, limit=1 << 30)])
        return len(self._acknowledged - {event.event_id for event in held.events})

    def _run(self) -> None:
        with PinRecClient(self._url, timeout=2.0) as client:
            while not self._stop.is_set():
                event = Event(
                    user_id=self._user, action=self._dataset.outcomes[0], timestamp=int(time.time()),
                    item_id="drill" if self._dataset.item_id_kind is IdKind.STRING else 1, event_id=uuid.uuid4().hex,
                )  # fmt: skip
                try:
                    client.log_events([event])
                    self._acknowledged.add(event.event_id)
                except PinRecClientError:
                    time.sleep(0.05)
