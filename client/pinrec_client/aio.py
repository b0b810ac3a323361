"""The asyncio client: ``PinRecClient`` word for word, awaited. One event loop uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from tritonclient.grpc import InferInput, InferResult
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from pinrec_client import codec
from pinrec_client.channel import DEFAULT_TIMEOUT, DEFAULT_URL, channel_arguments
from pinrec_client.contract import ENSEMBLE, INGEST
from pinrec_client.errors import DeadlineExceededError, PinRecClientError, UnavailableError, require
from pinrec_client.retry import NO_RETRY, Call, RetryPolicy
from pinrec_client.types import Event, ItemId, Recommendations, RecommendRequest, Tls, UserId

Answer = TypeVar("Answer")


class AsyncPinRecClient:
    """See ``PinRecClient``: the same arguments, answers and errors.

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
        self._triton = InferenceServerClient(**channel_arguments(url, tls))
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._no_item: ItemId | None = None  # asked of the server once

    async def __aenter__(self) -> AsyncPinRecClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._triton.close()

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the service would answer now: False while it starts, drains or cannot be reached in time."""
        call = self._start(timeout, NO_RETRY)
        try:
            return await self._attempt(
                call, lambda: self._triton.is_model_ready(ENSEMBLE, client_timeout=call.remaining())
            )
        except (UnavailableError, DeadlineExceededError):
            return False

    async def recommend(
        self,
        user_id: UserId,
        *,
        num_items: int | None = None,
        budget: Mapping[str, float] | None = None,
        surface: str | None = None,
        query: str | None = None,
        query_embedding: Sequence[float] | np.ndarray | None = None,
        exclude_seen: bool | None = None,
        request_time: int | None = None,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> Recommendations:
        """Items for one user, in rank order; the arguments are those of ``RecommendRequest``."""
        request = RecommendRequest(
            user_id=user_id,
            num_items=num_items,
            budget=budget,
            surface=surface,
            query=query,
            query_embedding=query_embedding,
            exclude_seen=exclude_seen,
            request_time=request_time,
            seed=seed,
        )
        return await self.send(request, timeout=timeout)

    async def send(self, request: RecommendRequest, *, timeout: float | None = None) -> Recommendations:
        """``recommend`` for a request made beforehand."""
        call = self._start(timeout)
        result = await self._infer(ENSEMBLE, codec.encode_request(request), call)
        return codec.decode_recommendations(result, call.request_id)

    async def recommend_many(
        self, requests: Iterable[RecommendRequest], *, concurrency: int = 8, timeout: float | None = None
    ) -> list[Recommendations | PinRecClientError]:
        """Answer many requests over the one channel, at most ``concurrency`` at a time, in their order.

        A request that fails has its error in the place of its answer; the others are unharmed.
        """
        require(concurrency >= 1, "concurrency", concurrency, "at least 1")
        free = asyncio.Semaphore(concurrency)

        async def one(request: RecommendRequest) -> Recommendations | PinRecClientError:
            async with free:
                try:
                    return await self.send(request, timeout=timeout)
                except PinRecClientError as error:
                    return error

        return await asyncio.gather(*[one(request) for request in requests])

    async def log_events(self, events: Sequence[Event], *, timeout: float | None = None) -> int:
        """Write events; returns how many the store now holds of them. The next request sees them.

        An event that was there before counts too, so a retry returns what a first attempt would have.
        """
        if not events:
            return 0
        call = self._start(timeout)
        no_item = codec.no_item_beside(events)
        if no_item is None:
            no_item = await self._ask_no_item(call)
        result = await self._infer(INGEST, codec.encode_events(events, no_item), call)
        return codec.decode_stored(result, call.request_id)

    async def _ask_no_item(self, call: Call) -> ItemId:
        if self._no_item is None:
            metadata = await self._attempt(
                call, lambda: self._triton.get_model_metadata(INGEST, client_timeout=call.remaining())
            )
            self._no_item = codec.no_item_of(metadata)
        return self._no_item

    async def _infer(self, model: str, inputs: list[InferInput], call: Call) -> InferResult:
        return await self._attempt(
            call,
            lambda: self._triton.infer(model, inputs, request_id=call.request_id, client_timeout=call.remaining()),
        )

    def _start(self, timeout: float | None, retry: RetryPolicy | None = None) -> Call:
        return Call(retry or self._retry, self._timeout if timeout is None else timeout)

    @staticmethod
    async def _attempt(call: Call, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        while True:
            try:
                return await attempt()
            except InferenceServerException as error:
                await asyncio.sleep(call.pause_before_retry(error))
