"""SIGTERM under load: a request that was accepted is answered, and one that comes later is refused and not failed."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.operation.drill import Row, Setting
from benchmarks.operation.load import OK, REFUSED, Load, Sent

ROUNDS = 20
SHARE = 0.5  # of the saturation
REFUSALS = ("too many requests are in flight", "Request for unknown model", "failed to connect")
"""How a request is told that it was not accepted: by the front, by Triton, and by the kernel once both are gone."""


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
        lost = [s for s in before if s.status != OK and not _was_refused(s)]
        rows.append(
            {
                "round": number + 1, "status": status, "stopped s": stopped - signalled,
                "in flight": sum(s.ended > signalled for s in before),
                "accepted lost": len(lost),
                "failed otherwise": sum(s.status not in (OK, REFUSED) for s in sent),
                "answered later": sum(s.status == OK for s in sent if s.due >= signalled),
                "refused": sum(map(_was_refused, sent)),
                "reasons": sorted({s.reason for s in sent if s.status != OK and not _was_refused(s)}),
            }
        )  # fmt: skip
    return rows


def _was_refused(sent: Sent) -> bool:
    """Whether the server has said so. A request that is due just before the signal may reach it just behind."""
    return sent.status == REFUSED and any(words in sent.reason for words in REFUSALS)
