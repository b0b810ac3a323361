"""What both clients do, written once: which messages a method sends, how it reads the answers, when it tries again.

Nothing here waits or blocks: that is the ``Transport`` of each client. Every method is a coroutine. The asyncio client
awaits it; the blocking client has a transport that never suspends, and so runs it straight to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from tritonclient.grpc.service_pb2 import ModelMetadataRequest, ModelReadyRequest

from pinrec_client import codec
from pinrec_client.contract import ENSEMBLE, INGEST
from pinrec_client.endpoints import Endpoint, Endpoints
from pinrec_client.errors import (
    DeadlineExceededError,
    PinRecClientError,
    ServerError,
    UnavailableError,
    from_rpc,
    require,
)
from pinrec_client.metadata import Metadata, authorization, of_user, trace
from pinrec_client.retry import NO_RETRY, Call, RetryBudget, RetryPolicy
from pinrec_client.transport import Transport
from pinrec_client.types import Event, ItemId, Recommendations, RecommendRequest, UserId

CLOSED = "the client is closed"


class ClientMethods:
    """The methods that the clients share. The arguments are those of the clients, and ``Transport`` and ``Endpoints``.

    Raises ``InvalidRequestError`` for a malformed argument.
    """

    def __init__(
        self,
        transport: Transport,
        endpoints: Endpoints,
        *,
        timeout: float,
        retry: RetryPolicy | None,
        api_key: str | None,
        hedge_after: float | None,
    ) -> None:
        require(hedge_after is None or hedge_after > 0, "hedge_after", hedge_after, "seconds above 0, or None")
        self._transport = transport
        self._endpoints = endpoints
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._budget = RetryBudget(self._retry)
        self._authorization = authorization(api_key)
        self._hedge_after = hedge_after
        self._no_item: ItemId | None = None  # the server is asked for it once

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether an endpoint of the service would answer now: False while all start, drain or cannot be reached.

        The endpoints are asked one after the other, and share the time.
        """
        call = self._start(timeout, NO_RETRY)
        message = ModelReadyRequest(name=ENSEMBLE)
        for asked, endpoint in enumerate(self._endpoints.all):
            share = call.remaining() / (len(self._endpoints.all) - asked)
            ask = endpoint.stub.ModelReady
            try:
                with self._closing_named():
                    answer = await self._transport.invoke(ask, message, timeout=share, metadata=call.metadata)
            except grpc.RpcError as failure:
                self._require_open()
                error = from_rpc(failure, request_id=call.request_id, endpoint=endpoint.url)
                if not isinstance(error, (UnavailableError, DeadlineExceededError)):
                    raise error from error.__cause__
            else:
                if answer.ready:
                    return True
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
        strength: float | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Recommendations:
        """Items for one user, in rank order. ``RecommendRequest`` describes the arguments, ``send`` the last three."""
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
            strength=strength,
        )
        return await self.send(request, timeout=timeout, request_id=request_id, traceparent=traceparent)

    async def send(
        self,
        request: RecommendRequest,
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> Recommendations:
        """The same as ``recommend``, for a request that was made beforehand.

        ``timeout`` is the time of this call in seconds. ``request_id`` names the call in the server's log, at random
        by default. ``traceparent`` is the W3C trace context that the service joins.
        """
        call = self._start(timeout, request_id=request_id, metadata=of_user(request.user_id) + trace(traceparent))
        message = codec.encode_request(request, call.request_id, timeout=call.remaining())
        answer = await self._complete(call, "ModelInfer", message, hedge_after=self._hedge_after)
        return codec.decode_recommendations(answer, call.request_id)

    async def recommend_many(
        self,
        requests: Iterable[RecommendRequest],
        *,
        concurrency: int = 8,
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> list[Recommendations | PinRecClientError]:
        """Answer many requests, at most ``concurrency`` at a time, in the order of the requests.

        A request that fails has its error in the place of its answer and does not affect the others. ``timeout`` is
        the time of one request, and every request has a random id.
        """
        require(concurrency >= 1, "concurrency", concurrency, "at least 1")

        async def answer_or_error(request: RecommendRequest) -> Recommendations | PinRecClientError:
            try:
                return await self.send(request, timeout=timeout, traceparent=traceparent)
            except PinRecClientError as error:
                return error

        return await self._transport.map(answer_or_error, requests, concurrency=concurrency)

    async def log_events(
        self,
        events: Sequence[Event],
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> int:
        """Write events; the next request sees them. Returns how many of them the store now holds.

        Events that the store held before count too, so a repeated write returns the same number as the first. ``send``
        describes the other arguments.
        """
        if not events:
            return 0
        call = self._start(timeout, request_id=request_id, metadata=trace(traceparent))
        no_item = codec.no_item_beside(events)
        if no_item is None:
            no_item = await self._ask_no_item(call)
        answer = await self._complete(call, "ModelInfer", codec.encode_events(events, no_item, call.request_id))
        return codec.decode_stored(answer, call.request_id)

    async def _ask_no_item(self, call: Call) -> ItemId:
        if self._no_item is None:
            metadata = await self._complete(call, "ModelMetadata", ModelMetadataRequest(name=INGEST))
            self._no_item = codec.no_item_of(metadata)
        return self._no_item

    def _start(
        self,
        timeout: float | None,
        retry: RetryPolicy | None = None,
        *,
        request_id: str | None = None,
        metadata: Metadata = (),
    ) -> Call:
        self._require_open()
        return Call(
            retry or self._retry,
            self._budget,
            self._timeout if timeout is None else timeout,
            request_id=request_id,
            metadata=self._authorization + metadata,
        )

    async def _complete(self, call: Call, rpc: str, message: Message, hedge_after: float | None = None) -> Any:
        """Repeat an attempt until it succeeds or the failure is not to be tried again. The first may be hedged."""
        while True:
            try:
                with self._closing_named():
                    if hedge_after is not None and not call.tried:
                        return await self._race(call, rpc, message, hedge_after)
                    return await self._attempt(call, rpc, message)
            except UnavailableError as error:
                await self._transport.sleep(call.pause_before_retry(error))

    async def _attempt(self, call: Call, rpc: str, message: Message) -> Any:
        endpoint = self._next_endpoint(call)
        method = getattr(endpoint.stub, rpc)
        try:
            answer = await self._transport.invoke(method, message, timeout=call.remaining(), metadata=call.metadata)
        except grpc.RpcError as failure:
            error = self._failed(call, endpoint, failure)
            raise error from error.__cause__
        self._succeeded(endpoint)
        return answer

    async def _race(self, call: Call, rpc: str, message: Message, hedge_after: float) -> Any:
        """An attempt that a second one joins when it has no answer after ``hedge_after`` seconds.

        The first answer wins, and the other attempt is cancelled. When one is told that the service is unavailable,
        the other may still be answered; any other failure ends both.
        """
        runners: dict[Any, Endpoint] = {}

        def enter() -> Any:
            endpoint = self._next_endpoint(call)
            method = getattr(endpoint.stub, rpc)
            attempt = race.start(method, message, timeout=call.remaining(), metadata=call.metadata)
            runners[attempt] = endpoint
            return attempt

        with self._transport.race() as race:
            first = enter()
            ended = await race.next_end(hedge_after)
            if ended is None and self._budget.take():
                enter()
            while True:
                if ended is None:
                    ended = await race.next_end(None)
                endpoint = runners.pop(ended)
                try:
                    answer = race.result(ended)
                except grpc.RpcError as failure:
                    error = self._failed(call, endpoint, failure)
                    if not runners or not isinstance(error, UnavailableError):
                        raise error from error.__cause__
                    ended = None
                else:
                    if first in runners:  # overtaken
                        self._endpoints.failed(runners[first], lightly=True)
                    self._succeeded(endpoint)
                    return answer

    def _next_endpoint(self, call: Call) -> Endpoint:
        endpoint = self._endpoints.choose(call.tried)
        call.tried.append(endpoint)
        return endpoint

    def _succeeded(self, endpoint: Endpoint) -> None:
        self._budget.succeeded()
        self._endpoints.succeeded(endpoint)

    def _failed(self, call: Call, endpoint: Endpoint, failure: grpc.RpcError) -> PinRecClientError:
        """Notes a failed attempt and returns its error."""
        self._require_open()  # if the client was closed meanwhile, that is the reason
        error = from_rpc(failure, request_id=call.request_id, endpoint=endpoint.url)
        if isinstance(error, UnavailableError):
            self._budget.failed()
            # With a time after which to come back it bounds its load, and most probably works.
            self._endpoints.failed(endpoint, lightly=error.retry_after is not None)
        elif isinstance(error, (DeadlineExceededError, ServerError)):
            self._endpoints.failed(endpoint)
        return error

    def _require_open(self) -> None:
        if self._endpoints.closed:
            raise PinRecClientError(CLOSED)

    @contextmanager
    def _closing_named(self) -> Iterator[None]:
        """What gRPC raises in a call whose client is closed meanwhile becomes this package's error."""
        try:
            yield
        except (ValueError, grpc.aio.UsageError) as error:
            if self._endpoints.closed:
                raise PinRecClientError(CLOSED) from error
            raise
        except asyncio.CancelledError as error:
            # gRPC cancels the calls of a channel that is closed. A task that is cancelled itself stays cancelled.
            # Before Python 3.11 the two cannot be told apart.
            cancelling = getattr(asyncio.current_task(), "cancelling", None)
            if self._endpoints.closed and cancelling is not None and not cancelling():
                raise PinRecClientError(CLOSED) from error
            raise
