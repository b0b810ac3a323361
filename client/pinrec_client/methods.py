"""What both clients do, written once: which messages a method sends, how it reads the answers, when it tries again.

Nothing here opens a connection or waits: that is the ``Transport`` of each client. Every method is a coroutine. The
asyncio client awaits it; the blocking client has a transport that never suspends, and so runs it straight to its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from tritonclient.grpc import InferInput, InferResult
from tritonclient.grpc.service_pb2 import ModelMetadataResponse
from tritonclient.utils import InferenceServerException

from pinrec_client import codec
from pinrec_client.contract import ENSEMBLE, INGEST
from pinrec_client.errors import DeadlineExceededError, PinRecClientError, UnavailableError, require
from pinrec_client.retry import NO_RETRY, Call, RetryPolicy
from pinrec_client.types import Event, ItemId, Recommendations, RecommendRequest, UserId

Value = TypeVar("Value")
Answer = TypeVar("Answer")


class Transport(Protocol):
    """What each client does in its own way. The first three methods raise ``InferenceServerException``."""

    async def infer(self, model: str, inputs: list[InferInput], *, request_id: str, timeout: float) -> InferResult:
        """Send tensors to a model and return those that it answers with."""

    async def is_ready(self, model: str, *, timeout: float) -> bool:
        """Whether Triton has loaded the model and takes requests for it."""

    async def metadata(self, model: str, *, timeout: float) -> ModelMetadataResponse:
        """Names, types and shapes of the model's tensors."""

    async def sleep(self, seconds: float) -> None:
        """Wait before the next attempt."""

    async def map(
        self, function: Callable[[Value], Coroutine[Any, Any, Answer]], values: Iterable[Value], *, concurrency: int
    ) -> list[Answer]:
        """Apply a function to values, at most ``concurrency`` at a time; returns the results in the values' order."""


class ClientMethods:
    """The methods that the clients share; ``timeout`` and ``retry`` are the defaults of their calls."""

    def __init__(self, transport: Transport, timeout: float, retry: RetryPolicy | None) -> None:
        self._transport = transport
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._no_item: ItemId | None = None  # the server is asked for it once

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the service would answer now: False while it starts, drains or cannot be reached in time."""
        call = self._start(timeout, NO_RETRY)
        try:
            return await self._attempt(call, lambda: self._transport.is_ready(ENSEMBLE, timeout=call.remaining()))
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
        """Items for one user, in rank order. ``RecommendRequest`` describes the arguments."""
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
        """The same as ``recommend``, for a request that was made beforehand."""
        call = self._start(timeout)
        result = await self._infer(ENSEMBLE, codec.encode_request(request), call)
        return codec.decode_recommendations(result, call.request_id)

    async def recommend_many(
        self, requests: Iterable[RecommendRequest], *, concurrency: int = 8, timeout: float | None = None
    ) -> list[Recommendations | PinRecClientError]:
        """Answer many requests over one channel, at most ``concurrency`` at a time, in the order of the requests.

        A request that fails has its error in the place of its answer and does not affect the others. ``timeout`` is
        the time of one request.
        """
        require(concurrency >= 1, "concurrency", concurrency, "at least 1")

        async def answer_or_error(request: RecommendRequest) -> Recommendations | PinRecClientError:
            try:
                return await self.send(request, timeout=timeout)
            except PinRecClientError as error:
                return error

        return await self._transport.map(answer_or_error, requests, concurrency=concurrency)

    async def log_events(self, events: Sequence[Event], *, timeout: float | None = None) -> int:
        """Write events; the next request sees them. Returns how many of them the store now holds.

        Events that the store held before count too, so a repeated write returns the same number as the first.
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
            metadata = await self._attempt(call, lambda: self._transport.metadata(INGEST, timeout=call.remaining()))
            self._no_item = codec.no_item_of(metadata)
        return self._no_item

    async def _infer(self, model: str, inputs: list[InferInput], call: Call) -> InferResult:
        return await self._attempt(
            call,
            lambda: self._transport.infer(model, inputs, request_id=call.request_id, timeout=call.remaining()),
        )

    def _start(self, timeout: float | None, retry: RetryPolicy | None = None) -> Call:
        return Call(retry or self._retry, self._timeout if timeout is None else timeout)

    async def _attempt(self, call: Call, attempt: Callable[[], Awaitable[Answer]]) -> Answer:
        """Repeat an attempt until it succeeds or the call's retry policy raises its failure."""
        while True:
            try:
                return await attempt()
            except InferenceServerException as error:
                await self._transport.sleep(call.pause_before_retry(error))
