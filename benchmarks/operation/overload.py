"""Four times as many requests as can be served: how many are served all the same, how soon the others are refused, and
how soon everything is as before: no refusal, and a p99 within the objective of load_tests/slo.toml.

The saturation is the most that clients are served who ask again as soon as they are answered. Its driver and that of
the overload share the machine with the server.
"""

from __future__ import annotations

import numpy as np

from benchmarks.operation.drill import Row, Setting
from benchmarks.operation.load import OK, REFUSED, Load, Sent, p99
from load_tests.slo import DEFAULT_FILE, Objectives
from pinrec_core.errors import ConfigError

CLIENTS = (16, 32)
TIMES = 4
UNLOADED = 0.25  # of the saturation
WINDOW = 1.0  # seconds, over which it is judged whether all is as before


def run(setting: Setting) -> list[Row]:
    closed, calm, flood, after = (2.0, 4.0, 5.0, 5.0) if setting.quick else (30.0, 30.0, 120.0, 30.0)
    slo = Objectives.load(DEFAULT_FILE).p99_ms
    if slo is None:
        raise ConfigError(f"{DEFAULT_FILE}: p99_ms is missing: expected the latency that is asked of accepted requests")
    with setting.server() as server, Load(server.url, setting.requests()) as load:
        setting.progress("saturation")
        load.closed(CLIENTS[0], 2.0)  # the first requests of a server are slower
        saturation = max(load.closed(clients, closed) for clients in CLIENTS)
        setting.progress("unloaded")
        unloaded = load.at_rate(UNLOADED * saturation, calm)
        setting.progress(f"{TIMES} times the saturation, for {flood:.0f} s")
        overload = load.at_rate(TIMES * saturation, flood)
        setting.progress("afterwards")
        afterwards = load.at_rate(0.5 * saturation, after)
    return [
        {"load": "unloaded", "offered /s": UNLOADED * saturation, **outcome(unloaded, calm)},
        {
            "load": f"{TIMES} x saturation", "saturation /s": saturation, "offered /s": TIMES * saturation,
            **outcome(overload, flood),
            "goodput / saturation": _served(overload) / flood / saturation,
            "accepted p99 / SLO": p99(overload) / slo, "recovered s": recovered(afterwards, limit_ms=slo),
        },
        {"load": "afterwards", "offered /s": 0.5 * saturation, **outcome(afterwards, after)},
    ]  # fmt: skip


def outcome(sent: list[Sent], seconds: float) -> Row:
    others = {s.status for s in sent} - {OK, REFUSED}
    return {
        "served /s": _served(sent) / seconds,
        "refused /s": sum(s.status == REFUSED for s in sent) / seconds,
        "failed": sum(s.status in others for s in sent),
        "accepted p50 ms": float(np.median([s.latency_ms for s in sent if s.status == OK] or [0.0])),
        "accepted p99 ms": p99(sent),
        "refused p99 ms": p99(sent, REFUSED),
    }


def recovered(sent: list[Sent], *, limit_ms: float) -> float:
    """Seconds until every later window has no refusal and a p99 below ``limit_ms``; infinite where the last has not."""
    start = sent[0].due
    windows: dict[int, list[Sent]] = {}
    for s in sent:
        windows.setdefault(int((s.due - start) / WINDOW), []).append(s)
    wrong = [n for n, part in windows.items() if any(s.status != OK for s in part) or p99(part) > limit_ms]
    if not wrong:
        return 0.0
    return float("inf") if max(wrong) == max(windows) else (max(wrong) + 1) * WINDOW


def _served(sent: list[Sent]) -> int:
    return sum(s.status == OK for s in sent)
