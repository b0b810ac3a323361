"""SIGTERM under load: a request that was accepted is answered, and one that comes later is refused and not failed."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.operation.drill import Row, Setting
from benchmarks.operation.load import OK, REFUSED, Load

ROUNDS = 20
SHARE = 0.5  # of the saturation
SETTLED = 0.5  # seconds behind the signal, after which a request cannot have been accepted before it


def run(setting: Setting) -> list[Row]:
    rows: list[Row] = []
    requests = setting.requests()
    for number in range(1 if setting.quick else ROUNDS):
        setting.progress(f"round {number + 1}")
        with setting.server() as server, Load(server.url, requests) as load:
            saturation = load.closed(16, 2.0)
            begun = len(load.sent)
            with load.beside(SHARE * saturation):
                time.sleep(2.0)
                signalled = time.perf_counter()
                os.kill(server.pid, signal.SIGTERM)
                status = server.wait()
                stopped = time.perf_counter()
            sent = load.sent[begun:]
        before = [s for s in sent if s.due < signalled]
        rows.append(
            {
                "round": number + 1, "status": status, "stopped s": stopped - signalled,
                "in flight": sum(s.ended > signalled for s in before),
                "accepted lost": sum(s.status != OK for s in before),
                "failed otherwise": sum(s.status not in (OK, REFUSED) for s in sent),
                "answered later": sum(s.status == OK for s in sent if s.due >= signalled),
                "refused": sum(s.status == REFUSED for s in sent),
            }
        )  # fmt: skip
    return rows
