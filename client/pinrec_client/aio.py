"""The asyncio client. One event loop uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from tritonclient.grpc import InferInput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.grpc.service_pb2 import ModelMetadataResponse

from pinrec_client.channel import DEFAULT_TIMEOUT, DEFAULT_URL, channel_arguments
from pinrec_client.methods import Answer, ClientMethods, Value
from pinrec_client.retry import RetryPolicy
from pinrec_client.types import Tls


class AsyncPinRecClient(ClientMethods):
    """``PinRecClient`` with methods to await: the same arguments, answers and errors.

    >>> async with AsyncPinRecClient("127.0.0.1:8001") as client:
    ...     answer = await client.recommend(17, num_items=10, budget={"like": 0.7, "neutral": 0.3})
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retry: RetryPolicy | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._connection = InferenceServerClient(**channel_arguments(url, tls))
        super().__init__(_AsyncioTransport(self._connection), timeout, retry)

    async def __aenter__(self) -> AsyncPinRecClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._connection.close()


class _AsyncioTransport:
    """tritonclient's asyncio connection as a ``Transport``."""

    def __init__(self, connection: InferenceServerClient) -> None:
        self._connection = connection

    async def infer(self, model: str, inputs: list[InferInput], *, request_id: str, timeout: float) -> InferResult:
        return await self._connection.infer(model, inputs, request_id=request_id, client_timeout=timeout)

    async def is_ready(self, model: str, *, timeout: float) -> bool:
        return await self._connection.is_model_ready(model, client_timeout=timeout)

    async def metadata(self, model: str, *, timeout: float) -> ModelMetadataResponse:
        return await self._connection.get_model_metadata(model, client_timeout=timeout)

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
