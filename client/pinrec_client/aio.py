"""The asyncio client. One event loop uses it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from pinrec_client.channel import DEFAULT_TIMEOUT, DEFAULT_URL, Channels, open_channel, split_urls
from pinrec_client.metadata import Metadata
from pinrec_client.methods import ClientMethods
from pinrec_client.retry import RetryPolicy
from pinrec_client.transport import Answer, Method, Value
from pinrec_client.types import Tls


class AsyncPinRecClient(ClientMethods):
    """``PinRecClient`` with methods to await: the same arguments, answers and errors.

    >>> async with AsyncPinRecClient("127.0.0.1:8001") as client:
    ...     answer = await client.recommend(17, num_items=10, budget={"like": 0.7, "neutral": 0.3})
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
        super().__init__(
            _AsyncioTransport(),
            Channels(split_urls(url), functools.partial(open_channel, tls=tls, kind=grpc.aio)),
            timeout=timeout,
            retry=retry,
            api_key=api_key,
            hedge_after=hedge_after,
        )

    async def __aenter__(self) -> AsyncPinRecClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channels. Calls in flight fail, and so does every later one."""
        self._channels.closed = True
        for channel in self._channels.by_url.values():
            await channel.close()


class _AsyncioTransport:
    """A ``Transport`` over gRPC's asyncio channels."""

    async def invoke(self, method: Method, message: Message, *, timeout: float, metadata: Metadata) -> Any:
        return await method(message, timeout=timeout, metadata=metadata)

    @contextmanager
    def race(self) -> Iterator[_AsyncioRace]:
        race = _AsyncioRace()
        try:
            yield race
        finally:
            for attempt in race.running:
                attempt.cancel()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def map(
        self, function: Callable[[Value], Coroutine[Any, Any, Answer]], values: Iterable[Value], *, concurrency: int
    ) -> list[Answer]:
        free = asyncio.Semaphore(concurrency)

        async def when_free(value: Value) -> Answer:
            async with free:
                return await function(value)

        return await asyncio.gather(*[when_free(value) for value in values])


class _AsyncioRace:
    """A task per attempt. Cancelling the task cancels the call."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task] = set()

    def start(self, method: Method, message: Message, *, timeout: float, metadata: Metadata) -> asyncio.Task:
        async def attempt() -> Any:
            return await method(message, timeout=timeout, metadata=metadata)

        task = asyncio.create_task(attempt())
        # Reads the outcome of an attempt that nobody waits for any more: asyncio would report it as forgotten.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self.running.add(task)
        return task

    async def next_end(self, within: float | None) -> asyncio.Task | None:
        ended, _ = await asyncio.wait(self.running, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if not ended:
            return None
        attempt = ended.pop()
        self.running.remove(attempt)
        return attempt

    def result(self, attempt: asyncio.Task) -> Any:
        return attempt.result()
