"""A model of another Triton server, called with a deadline. It runs in the process of a stage.

The other server may stop, hang and come back at any time. A call then fails within its deadline, and one that follows
once the server is back succeeds: the channel connects again by itself. This module knows nothing of what is computed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from pinrec_core.contract import REQUEST_ID, TIMEOUT_US, TRACEPARENT, StageSpec
from pinrec_core.errors import ExpiredError, InvalidRequestError, PinRecError, ServerError
from pinrec_core.stages.base import START_SECONDS, RemoteServer, Tensors
from pinrec_serving.model_control import input_tensor

NOT_THERE = "that server is starting or stopping, or not swapped to this release yet"
ENDED_PROCESS = "is not healthy"
"""Words of Triton about a stage whose process has ended. Its owner is about to load it again."""
STOPPED_WAITING = "stopped waiting"
"""Words of a stage about a request that has expired. A call is also CANCELLED by a server that stops."""

CHANNEL_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A name may resolve to several replicas: calls take turns among them.
    ("grpc.lb_policy_name", "round_robin"),
    # The pauses between two attempts to connect. By default they grow to two minutes, in which every call would fail.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A host that is gone answers no packet. The timeout also bounds how long sent bytes may stay unacknowledged, so the
    # connection is given up after two seconds, and not when the system gives it up. Pings are as rare as a Triton
    # server accepts them.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 1000),
]

log = logging.getLogger(__name__)

Answer = tuple[triton.InferResult | None, InferenceServerException | None]


class RemoteModel:
    """Model ``name`` of ``server``, which has the tensors of ``spec``. Nothing is sent before the first call."""

    def __init__(self, spec: StageSpec, name: str, server: RemoteServer) -> None:
        self._spec = spec
        self._name = name
        self._server = server
        self._client = triton.InferenceServerClient(server.address, channel_args=CHANNEL_ARGUMENTS)
        self._answers = True

    def check_ready(self) -> None:
        """Raises ``ServerError`` unless the server has this model and answers. It also opens the connection."""
        try:
            ready = self._client.is_model_ready(self._name, client_timeout=START_SECONDS)
        except InferenceServerException as error:
            raise self._failure(error, START_SECONDS) from error
        if not ready:
            raise self._away(NOT_THERE)

    def __call__(self, tensors: Tensors, *, seconds: float | None = None) -> Tensors:
        """The answer to one request, without the batch dimension on either side.

        Raises ``ServerError`` when there is none after ``seconds``, or after the deadline of the server without them,
        and the error that it answers with.
        """
        deadline = self._server.deadline_ms / 1e3 if seconds is None else seconds
        try:
            answer = self._client.infer(self._name, self._inputs(tensors), **_about(tensors), client_timeout=deadline)
        except InferenceServerException as error:
            failure = self._failure(error, deadline)
            self._note(failure)
            raise failure from error
        self._note(None)
        return self._outputs(answer)

    def each(self, requests: Sequence[Tensors]) -> list[Tensors | PinRecError]:
        """The answers to requests that are sent at once, in order: the tensors, or the error of that request alone.

        They share one deadline; a request that is not answered by then gets a ``ServerError``.
        """
        deadline = self._server.deadline_ms / 1e3
        end = time.monotonic() + deadline
        asked = [self._ask(tensors, end - time.monotonic()) for tensors in requests]
        answers: list[Tensors | PinRecError] = []
        for future in asked:
            answer, error = future.result()
            answers.append(self._outputs(answer) if error is None else self._failure(error, deadline))
        self._note(next((answer for answer in answers if isinstance(answer, ServerError)), None))
        return answers

    def _ask(self, tensors: Tensors, seconds: float) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._client.async_infer(
            self._name, self._inputs(tensors), **_about(tensors), client_timeout=seconds,
            callback=lambda result, error: future.set_result((result, error)),
        )  # fmt: skip
        return future

    def _inputs(self, tensors: Tensors) -> list[triton.InferInput]:
        """Those that there are: an optional one that is absent stays absent."""
        return [input_tensor(spec.name, tensors[spec.name][None]) for spec in self._spec.inputs if spec.name in tensors]

    def _outputs(self, answer: triton.InferResult) -> Tensors:
        return {spec.name: answer.as_numpy(spec.name)[0] for spec in self._spec.outputs}

    def _failure(self, error: InferenceServerException, deadline: float) -> PinRecError:
        """What an error of the call is here: that of the request if the stage over there says so, else the server's."""
        status, message = str(error.status()).removeprefix("StatusCode."), str(error.message())
        match status:
            case "INVALID_ARGUMENT":
                return InvalidRequestError(message)
            case "CANCELLED" if STOPPED_WAITING in message:
                return ExpiredError(message)
            case "INTERNAL" if ENDED_PROCESS not in message:
                return PinRecError(f"{self._name} of {self._server.address}: {message}")
            case "DEADLINE_EXCEEDED" | "CANCELLED":  # the other side may be the first to see that it has passed
                return self._away(f"no answer within {deadline * 1e3:g} ms")
            case "NOT_FOUND":
                return self._away(NOT_THERE)
        return self._away(f"{status}: {message}")

    def _away(self, reason: str) -> ServerError:
        return ServerError(f"{self._name} of {self._server.address}: {reason}")

    def _note(self, failure: PinRecError | None) -> None:
        """Log that the server is away and that it is back: once, and not with every request in between."""
        away = isinstance(failure, ServerError)
        if away and self._answers:
            log.warning("%s", failure)
        elif not away and not self._answers:
            log.info("%s of %s answers again", self._name, self._server.address)
        self._answers = not away


def _about(tensors: Tensors) -> dict[str, Any]:
    """What a call says of the request beside its inputs, where it is known: id, trace and how long its caller waits."""
    return {
        "request_id": tensors[REQUEST_ID][0] if REQUEST_ID in tensors else "",
        "headers": {TRACEPARENT: tensors[TRACEPARENT][0]} if TRACEPARENT in tensors else None,
        "timeout": int(tensors[TIMEOUT_US][0]) if TIMEOUT_US in tensors else None,
    }
