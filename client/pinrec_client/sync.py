"""The blocking client. Threads may share one; so may gevent's greenlets."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, ParamSpec

import grpc
from google.protobuf.message import Message

from pinrec_client.channel import DEFAULT_TIMEOUT, DEFAULT_URL, Channels, open_channel, split_urls
from pinrec_client.metadata import Metadata
from pinrec_client.methods import ClientMethods
from pinrec_client.retry import RetryPolicy
from pinrec_client.transport import Answer, Method, Value
from pinrec_client.types import Tls

Arguments = ParamSpec("Arguments")


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

    ``url`` is host:port, or any gRPC name (``dns:///replicas:8001``), or those of several replicas, in a list or with
    commas between them. ``timeout`` is the time in seconds that one call may take, retries included; each method can be
    given another. ``retry`` says when a call is tried again. ``api_key`` is sent with every call; give it with ``tls``
    alone where others can read the network. ``hedge_after`` is the time in seconds after which a recommendation that
    has no answer is asked for a second time, at another replica; by default it never is. Every method raises
    ``PinRecClientError``.

    >>> with PinRecClient("127.0.0.1:8001") as client:
    ...     answer = client.recommend(17, num_items=10, budget={"like": 0.7, "neutral": 0.3})
    """

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        tls: Tls | None = None,
        api_key: str | None = None,
        hedge_after: float | None = None,
    ) -> None:
        self._channels = Channels(split_urls(url), functools.partial(open_channel, tls=tls))
        self._methods = ClientMethods(
            _BlockingTransport(),
            self._channels,
            timeout=timeout,
            retry=retry,
            api_key=api_key,
            hedge_after=hedge_after,
        )

    # ``ClientMethods`` has the code and the docstrings of these.
    is_ready = _blocking(ClientMethods.is_ready)
    recommend = _blocking(ClientMethods.recommend)
    send = _blocking(ClientMethods.send)
    recommend_many = _blocking(ClientMethods.recommend_many)
    log_events = _blocking(ClientMethods.log_events)
    forget_user = _blocking(ClientMethods.forget_user)

    def __enter__(self) -> PinRecClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channels. Calls in flight fail, and so does every later one."""
        # At most once: under gevent a second close harms other channels (see ``Connection``).
        if not self._channels.closed:
            self._channels.closed = True
            for channel in self._channels.by_url.values():
                channel.close()


class _BlockingTransport:
    """A ``Transport`` whose coroutines never suspend: each blocks its thread until it is done."""

    async def invoke(self, method: Method, message: Message, *, timeout: float, metadata: Metadata) -> Any:
        return method(message, timeout=timeout, metadata=metadata)

    @contextmanager
    def race(self) -> Iterator[_BlockingRace]:
        race = _BlockingRace()
        try:
            yield race
        finally:
            for attempt in race.attempts:
                attempt.cancel()  # does nothing to one that has ended

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def map(
        self, function: Callable[[Value], Coroutine[Any, Any, Answer]], values: Iterable[Value], *, concurrency: int
    ) -> list[Answer]:
        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            return list(pool.map(lambda value: _run(function(value)), values))


class _BlockingRace:
    """Futures of gRPC, and a queue of those that have ended."""

    def __init__(self) -> None:
        self.attempts: list[grpc.Future] = []
        self._ended: SimpleQueue[grpc.Future] = SimpleQueue()

    def start(self, method: Method, message: Message, *, timeout: float, metadata: Metadata) -> grpc.Future:
        attempt = method.future(message, timeout=timeout, metadata=metadata)
        self.attempts.append(attempt)
        attempt.add_done_callback(self._ended.put)
        return attempt

    async def next_end(self, within: float | None) -> grpc.Future | None:
        try:
            return self._ended.get(timeout=within)
        except Empty:
            return None

    def result(self, attempt: grpc.Future) -> Any:
        return attempt.result()
