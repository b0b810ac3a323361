"""The server's side of a load test: queue and compute time per model, from Triton's own counters."""

from __future__ import annotations

from dataclasses import dataclass

from pinrec_client.channel import Connection, channel_arguments

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTime:
    """What one model did between two readings.

    ``queue_ms`` and ``compute_ms`` are means per answered request, ``batch_size`` is the mean per execution.
    """

    requests: int
    queue_ms: float
    compute_ms: float
    batch_size: float


@dataclass(frozen=True, slots=True)
class _Counters:
    requests: int
    executions: int
    queue_ns: int
    compute_ns: int


Reading = dict[str, _Counters]


def read(url: str, timeout: float) -> Reading:
    """The counters of each model since the server loaded it. Raises ``InferenceServerException``."""
    connection = Connection(**channel_arguments(url, tls=None))
    try:
        statistics = connection.get_inference_statistics(client_timeout=timeout)
    finally:
        connection.close()
    return {
        model.name: _Counters(
            requests=model.inference_stats.success.count,
            executions=model.execution_count,
            queue_ns=model.inference_stats.queue.ns,
            compute_ns=model.inference_stats.compute_input.ns
            + model.inference_stats.compute_infer.ns
            + model.inference_stats.compute_output.ns,
        )
        for model in statistics.model_stats
    }


def between(before: Reading, after: Reading) -> dict[str, ModelTime]:
    """The difference of two readings by model. Models that answered nothing in between are left out."""
    nothing = _Counters(0, 0, 0, 0)
    times = {}
    for name, now in after.items():
        then = before.get(name, nothing)
        if now.requests < then.requests:  # the model was loaded again in between, and its counters began at 0
            then = nothing
        requests = now.requests - then.requests
        if requests > 0:
            times[name] = ModelTime(
                requests=requests,
                queue_ms=(now.queue_ns - then.queue_ns) / requests / _NS_PER_MS,
                compute_ms=(now.compute_ns - then.compute_ns) / requests / _NS_PER_MS,
                batch_size=requests / max(now.executions - then.executions, 1),
            )
    return times
