"""The attempts at the calls of one model: at which endpoint each is made, which follow a failure, which runs beside.

Recommendations and events each have an ``Attempts`` of their own. A write path that is down then takes neither the
retries nor the endpoints of the recommendations, and the other way round.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from pinrec_client import codec
from pinrec_client.channel import Channels
from pinrec_client.endpoints import Endpoint, Endpoints
from pinrec_client.errors import DeadlineExceededError, PinRecClientError, ServerError, UnavailableError, from_rpc
from pinrec_client.retry import Call, RetryBudget, RetryPolicy
from pinrec_client.transport import Transport

FAIR_SHARE = 0.5
"""The share of a call's time that an attempt must have had before a missing answer counts against its endpoint. A retry
or a hedge may begin so late that a healthy endpoint cannot answer in time. One that hangs is left out all the same,
because the first attempts at calls have all of their time."""


class Question(NamedTuple):
    """What an attempt sends: the message of an ``rpc`` of Triton's protocol.

    With ``tells_timeout`` each attempt tells the service how much of the call's time is left.
    """

    rpc: str
    message: Message
    tells_timeout: bool = False


class Attempt(NamedTuple):
    """Where an attempt is made, and the seconds that it has."""

    endpoint: Endpoint
    seconds: float


class Attempts:
    """What the attempts at one model share: the retry budget, and which endpoints are left out."""

    def __init__(self, transport: Transport, channels: Channels, retry: RetryPolicy) -> None:
        self.endpoints = Endpoints(channels.by_url)
        self.budget = RetryBudget(retry)
        self._transport = transport
        self._channels = channels

    async def complete(self, call: Call, question: Question, *, hedge_after: float | None = None) -> Any:
        """Repeat an attempt until it succeeds or the failure is not to be tried again. The first may be hedged."""
        while True:
            try:
                with self._channels.closing_named():
                    if hedge_after is not None and not call.tried:
                        return await self._race(call, question, hedge_after)
                    return await self._attempt(call, question)
            except UnavailableError as error:
                await self._transport.sleep(call.pause_before_retry(error))

    async def _attempt(self, call: Call, question: Question) -> Any:
        attempt, method = self._begin(call, question)
        try:
            answer = await self._transport.invoke(
                method, question.message, timeout=attempt.seconds, metadata=call.metadata
            )
        except grpc.RpcError as failure:
            error = self._failed(call, attempt, failure)
            raise error from error.__cause__
        self._succeeded(attempt)
        return answer

    async def _race(self, call: Call, question: Question, hedge_after: float) -> Any:
        """An attempt that a second one joins when it has no answer after ``hedge_after`` seconds.

        The first answer wins, and the other attempt is cancelled. When one is told that the service is unavailable,
        the other may still be answered; any other failure ends both.
        """
        runners: dict[Any, Attempt] = {}

        def enter() -> Any:
            attempt, method = self._begin(call, question)
            runner = race.start(method, question.message, timeout=attempt.seconds, metadata=call.metadata)
            runners[runner] = attempt
            return runner

        with self._transport.race() as race:
            first = enter()
            ended = await race.next_end(hedge_after)
            if ended is None and self.budget.take():
                enter()
            while True:
                if ended is None:
                    ended = await race.next_end(None)
                attempt = runners.pop(ended)
                try:
                    answer = race.result(ended)
                except grpc.RpcError as failure:
                    error = self._failed(call, attempt, failure)
                    if not runners or not isinstance(error, UnavailableError):
                        raise error from error.__cause__
                    ended = None
                else:
                    if first in runners:  # overtaken
                        self.endpoints.failed(runners[first].endpoint, lightly=True)
                    self._succeeded(attempt)
                    return answer

    def _begin(self, call: Call, question: Question) -> tuple[Attempt, Any]:
        """The next attempt at a call, and the method of gRPC that makes it."""
        endpoint = self.endpoints.choose(call.tried)
        call.tried.append(endpoint)
        seconds = call.remaining()
        if question.tells_timeout:
            codec.set_timeout(question.message, seconds)
        return Attempt(endpoint, seconds), getattr(endpoint.stub, question.rpc)

    def _succeeded(self, attempt: Attempt) -> None:
        self.budget.succeeded()
        self.endpoints.succeeded(attempt.endpoint)

    def _failed(self, call: Call, attempt: Attempt, failure: grpc.RpcError) -> PinRecClientError:
        """Notes a failed attempt and returns its error."""
        self._channels.require_open()  # if the client was closed meanwhile, that is the reason
        endpoint = attempt.endpoint
        late = attempt.seconds < FAIR_SHARE * call.timeout
        error = from_rpc(failure, request_id=call.request_id, endpoint=endpoint.url)
        if isinstance(error, UnavailableError):
            self.budget.failed()
            # With a time after which to come back it bounds its load, and most probably works.
            self.endpoints.failed(endpoint, lightly=error.retry_after is not None)
        elif isinstance(error, ServerError) or (isinstance(error, DeadlineExceededError) and not late):
            self.endpoints.failed(endpoint)
        return error
