"""The blocking client. Threads may share one; so may gevent's greenlets."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec

from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.grpc.service_pb2 import ModelMetadataResponse

from pinrec_client.channel import DEFAULT_TIMEOUT, DEFAULT_URL, channel_arguments
from pinrec_client.methods import Answer, ClientMethods, Value
from pinrec_client.retry import RetryPolicy
from pinrec_client.types import Tls

Arguments = ParamSpec("Arguments")


class Connection(InferenceServerClient):
    """tritonclient's blocking connection, closed at most once.

    tritonclient's own class closes its channel a second time when it is garbage-collected. Under gevent, gRPC counts
    the open channels, and a second close takes another connection off that count: its requests then hang.
    """

    _closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            super().close()


def _run(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine to its end in this thread. It must never suspend, as those over ``_BlockingTransport`` do not."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("a coroutine of the blocking client suspended")


def _blocking(
    method: Callable[Concatenate[ClientMethods, Arguments], Coroutine[Any, Any, Answer]],
) -> Callable[Concatenate[PinRecClient, Arguments], Answer]:
    """A method of ``ClientMethods`` as one that blocks, with the same arguments and docstring."""

    @functools.wraps(method)
    def run(self: PinRecClient, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        return _run(method(self._methods, *args, **kwargs))

    return run


class PinRecClient:
    """Recommendations from a PinRec service, and event writes to it.

    ``url`` is host:port, or any gRPC name (``dns:///replicas:8001``). ``timeout`` is the time in seconds that one call
    may take, retries included; each method can be given another. Every method raises ``PinRecClientError``.

    >>> with PinRecClient("127.0.0.1:8001") as client:
    ...     answer = client.recommend(17, num_items=10, budget={"like": 0.7, "neutral": 0.3})
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._connection = Connection(**channel_arguments(url, tls))
        self._methods = ClientMethods(_BlockingTransport(self._connection), timeout, retry)

    # ``ClientMethods`` has the code and the docstrings of these.
    is_ready = _blocking(ClientMethods.is_ready)
    recommend = _blocking(ClientMethods.recommend)
    send = _blocking(ClientMethods.send)
    recommend_many = _blocking(ClientMethods.recommend_many)
    log_events = _blocking(ClientMethods.log_events)

    def __enter__(self) -> PinRecClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._connection.close()


class _BlockingTransport:
    """A ``Connection`` as a ``Transport`` whose coroutines never suspend: each blocks its thread until it is done."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def infer(self, model: str, inputs: list[InferInput], *, request_id: str, timeout: float) -> InferResult:
        return self._connection.infer(model, inputs, request_id=request_id, client_timeout=timeout)

    async def is_ready(self, model: str, *, timeout: float) -> bool:
        return self._connection.is_model_ready(model, client_timeout=timeout)

    async def metadata(self, model: str, *, timeout: float) -> ModelMetadataResponse:
        return self._connection.get_model_metadata(model, client_timeout=timeout)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def map(
        self, function: Callable[[Value], Coroutine[Any, Any, Answer]], values: Iterable[Value], *, concurrency: int
    ) -> list[Answer]:
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            return list(pool.map(lambda value: _run(function(value)), values))
