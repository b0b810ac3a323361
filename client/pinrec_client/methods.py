"""What both clients do, written once: which messages a method sends and how it reads the answers.

Nothing here waits or blocks: that is the ``Transport`` of each client. Every method is a coroutine. The asyncio client
awaits it; the blocking client has a transport that never suspends, and so runs it straight to its end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import grpc
import numpy as np
from tritonclient.grpc.service_pb2 import ModelMetadataRequest, ModelReadyRequest

from pinrec_client import codec
from pinrec_client.attempts import Attempts, Question
from pinrec_client.channel import Channels
from pinrec_client.contract import ENSEMBLE, INGEST
from pinrec_client.errors import DeadlineExceededError, PinRecClientError, UnavailableError, from_rpc, require
from pinrec_client.metadata import Metadata, authorization, of_user, trace
from pinrec_client.retry import NO_RETRY, Call, RetryPolicy
from pinrec_client.transport import Transport
from pinrec_client.types import Event, ItemId, Recommendations, RecommendRequest, UserId, check_forget


class ClientMethods:
    """The methods that the clients share. The arguments are those of the clients, and ``Transport`` and ``Channels``.

    Raises ``InvalidRequestError`` for a malformed argument.
    """

    def __init__(
        self,
        transport: Transport,
        channels: Channels,
        *,
        timeout: float,
        retry: RetryPolicy | None,
        api_key: str | None,
        hedge_after: float | None,
    ) -> None:
        require(hedge_after is None or hedge_after > 0, "hedge_after", hedge_after, "seconds above 0, or None")
        self._transport = transport
        self._channels = channels
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._recommendations = Attempts(transport, channels, self._retry)
        self._events = Attempts(transport, channels, self._retry)
        self._authorization = authorization(api_key)
        self._hedge_after = hedge_after
        self._no_item: ItemId | None = None  # the server is asked for it once

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether an endpoint of the service would answer now: False while all start, drain or cannot be reached.

        The endpoints are asked one after the other, and share the time.
        """
        call = self._start(self._recommendations, timeout, NO_RETRY)
        endpoints = self._recommendations.endpoints.all
        message = ModelReadyRequest(name=ENSEMBLE)
        for asked, endpoint in enumerate(endpoints):
            share = call.remaining() / (len(endpoints) - asked)
            ask = endpoint.stub.ModelReady
            try:
                with self._channels.closing_named():
                    answer = await self._transport.invoke(ask, message, timeout=share, metadata=call.metadata)
            except grpc.RpcError as failure:
                self._channels.require_open()
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
        attempts = self._recommendations
        metadata = of_user(request.user_id) + trace(traceparent)
        call = self._start(attempts, timeout, request_id=request_id, metadata=metadata)
        message = codec.encode_request(request, call.request_id)
        question = Question("ModelInfer", message, tells_timeout=True)
        answer = await attempts.complete(call, question, hedge_after=self._hedge_after)
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
        call = self._start(self._events, timeout, request_id=request_id, metadata=trace(traceparent))
        no_item = codec.no_item_beside(events)
        if no_item is None:
            no_item = await self._ask_no_item(call)
        message = codec.encode_events(events, no_item, call.request_id)
        answer = await self._events.complete(call, Question("ModelInfer", message))
        return codec.decode_stored(answer, call.request_id)

    async def forget_user(
        self,
        user_id: UserId,
        *,
        at: int | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> int:
        """Forget what a user did up to and including ``at`` (Unix seconds, by default now). Returns ``at``.

        From then on no answer uses it, and that lasts, whatever repeated or late events come. Events of a later time
        begin a new history. It is safe to call again. ``send`` describes the other arguments.
        """
        at = int(time.time()) if at is None else at
        check_forget(user_id, at)
        call = self._start(self._events, timeout, request_id=request_id, metadata=trace(traceparent))
        message = codec.encode_forget(user_id, at, await self._ask_no_item(call), call.request_id)
        await self._events.complete(call, Question("ModelInfer", message))
        return at

    async def _ask_no_item(self, call: Call) -> ItemId:
        if self._no_item is None:
            question = Question("ModelMetadata", ModelMetadataRequest(name=INGEST))
            metadata = await self._events.complete(call, question)
            self._no_item = codec.no_item_of(metadata)
        return self._no_item

    def _start(
        self,
        attempts: Attempts,
        timeout: float | None,
        retry: RetryPolicy | None = None,
        *,
        request_id: str | None = None,
        metadata: Metadata = (),
    ) -> Call:
        self._channels.require_open()
        return Call(
            retry or self._retry,
            attempts.budget,
            self._timeout if timeout is None else timeout,
            request_id=request_id,
            metadata=self._authorization + metadata,
        )
