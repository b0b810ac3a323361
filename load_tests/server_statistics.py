"""The server's side of a load test: queue and compute time per model and per stage, from Triton's own counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pinrec_client import Tls
from pinrec_client.channel import Connection, channel_arguments

_NS_PER_MS = 1e6
_RELEASE_SEPARATOR = "__"  # ``generator__<release>`` is the model that serves a stage of a release


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


def read(url: str, timeout: float, tls: Tls | None = None) -> Reading:
    """The counters of each model since the server loaded it. Raises ``InferenceServerException``."""
    connection = Connection(**channel_arguments(url, tls))
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


def stage_and_release(model: str) -> tuple[str, str]:
    """``generator__r42`` → ``generator`` and ``r42``. A model that is of no release has the release ""."""
    stage, _, release = model.partition(_RELEASE_SEPARATOR)
    return stage, release


def by_stage(models: Mapping[str, ModelTime]) -> dict[str, ModelTime]:
    """The models of one stage together, over all releases, of which there are several during a swap."""
    of_stage: dict[str, list[ModelTime]] = defaultdict(list)
    for name, time in models.items():
        of_stage[stage_and_release(name)[0]].append(time)
    return {stage: _together(times) for stage, times in of_stage.items()}


def _together(times: Iterable[ModelTime]) -> ModelTime:
    times = list(times)
    requests = sum(time.requests for time in times)
    return ModelTime(
        requests=requests,
        queue_ms=sum(time.queue_ms * time.requests for time in times) / requests,
        compute_ms=sum(time.compute_ms * time.requests for time in times) / requests,
        batch_size=requests / sum(time.requests / time.batch_size for time in times),
    )
