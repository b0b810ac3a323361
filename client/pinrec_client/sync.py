"""The blocking client. Threads may share one; so do gevent's greenlets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferResult
from tritonclient.utils import InferenceServerException

from pinrec_client import codec
from pinrec_client.channel import DEFAULT_TIMEOUT, DEFAULT_URL, channel_arguments
from pinrec_client.contract import ENSEMBLE, INGEST
from pinrec_client.errors import DeadlineExceededError, PinRecClientError, UnavailableError, require
from pinrec_client.retry import NO_RETRY, Call, RetryPolicy
from pinrec_client.types import Event, ItemId, Recommendations, RecommendRequest, Tls, UserId

Answer = TypeVar("Answer")


class Connection(InferenceServerClient):
    """tritonclient's connection, closed at most once.

    Its own is closed again by the garbage collector. Under gevent gRPC counts open channels, and a second close takes
    another connection's place in that count: requests of that one hang.
    """

    _closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            super().close()


class PinRecClient:
    """Recommendations from, and event writes to, a PinRec service.

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
        self._triton = Connection(**channel_arguments(url, tls))
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._no_item: ItemId | None = None  # asked of the server once

    def __enter__(self) -> PinRecClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._triton.close()

    def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the service would answer now: False while it starts, drains or cannot be reached in time."""
        call = self._start(timeout, NO_RETRY)
        try:
            return self._attempt(call, lambda: self._triton.is_model_ready(ENSEMBLE, client_timeout=call.remaining()))
        except (UnavailableError, DeadlineExceededError):
            return False

    def recommend(
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
        return self.send(request, timeout=timeout)

    def send(self, request: RecommendRequest, *, timeout: float | None = None) -> Recommendations:
        """``recommend`` for a request made beforehand."""
        call = self._start(timeout)
        result = self._infer(ENSEMBLE, codec.encode_request(request), call)
        return codec.decode_recommendations(result, call.request_id)

    def recommend_many(
        self, requests: Iterable[RecommendRequest], *, concurrency: int = 8, timeout: float | None = None
    ) -> list[Recommendations | PinRecClientError]:
        """Answer many requests over the one channel, at most ``concurrency`` at a time, in their order.

        A request that fails has its error in the place of its answer; the others are unharmed.
        """
        require(concurrency >= 1, "concurrency", concurrency, "at least 1")

        def one(request: RecommendRequest) -> Recommendations | PinRecClientError:
            try:
                return self.send(request, timeout=timeout)
            except PinRecClientError as error:
                return error

        with ThreadPoolExecutor(max_workers=concurrency) as pool:
            return list(pool.map(one, requests))

    def log_events(self, events: Sequence[Event], *, timeout: float | None = None) -> int:
        """Write events; returns how many the store now holds of them. The next request sees them.

        An event that was there before counts too, so a retry returns what a first attempt would have.
        """
        if not events:
            return 0
        call = self._start(timeout)
        no_item = codec.no_item_beside(events)
        if no_item is None:
            no_item = self._ask_no_item(call)
        result = self._infer(INGEST, codec.encode_events(events, no_item), call)
        return codec.decode_stored(result, call.request_id)

    def _ask_no_item(self, call: Call) -> ItemId:
        if self._no_item is None:
            metadata = self._attempt(
                call, lambda: self._triton.get_model_metadata(INGEST, client_timeout=call.remaining())
            )
            self._no_item = codec.no_item_of(metadata)
        return self._no_item

    def _infer(self, model: str, inputs: list[InferInput], call: Call) -> InferResult:
        return self._attempt(
            call,
            lambda: self._triton.infer(model, inputs, request_id=call.request_id, client_timeout=call.remaining()),
        )

    def _start(self, timeout: float | None, retry: RetryPolicy | None = None) -> Call:
        return Call(retry or self._retry, self._timeout if timeout is None else timeout)

    @staticmethod
    def _attempt(call: Call, attempt: Callable[[], Answer]) -> Answer:
        while True:
            try:
                return attempt()
            except InferenceServerException as error:
                time.sleep(call.pause_before_retry(error))
