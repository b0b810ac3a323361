"""A model of another Triton server, called with a deadline. It runs in the process of a stage.

The other server may stop, hang and come back at any time. A call then fails within its deadline, and one that follows
once the server is back succeeds: the channel connects again by itself. This module knows nothing of what is computed.
"""

from __future__ import annotations

import logging

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pinrec_core.contract import StageSpec
from pinrec_core.errors import ServerError
from pinrec_core.stages.base import RemoteServer, Tensors

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


class RemoteModel:
    """Model ``name`` of ``server``, which has the tensors of ``spec``. Nothing is sent before the first call."""

    def __init__(self, spec: StageSpec, name: str, server: RemoteServer) -> None:
        self._spec = spec
        self._name = name
        self._server = server
        self._client = triton.InferenceServerClient(server.address, channel_args=CHANNEL_ARGUMENTS)
        self._answers = True

    def __call__(self, tensors: Tensors, *, seconds: float | None = None) -> Tensors:
        """The answer to one request, without the batch dimension on either side.

        Raises ``ServerError`` when there is none after ``seconds``, or after the deadline of the server without them.
        """
        deadline = self._server.deadline_ms / 1e3 if seconds is None else seconds
        inputs = []
        for spec in self._spec.inputs:
            values = tensors[spec.name][None]
            made = triton.InferInput(spec.name, list(values.shape), np_to_triton_dtype(values.dtype))
            made.set_data_from_numpy(values)
            inputs.append(made)
        try:
            answer = self._client.infer(self._name, inputs, client_timeout=deadline)
        except InferenceServerException as error:
            raise self._failure(error, deadline) from error
        if not self._answers:
            self._answers = True
            log.info("%s of %s answers again", self._name, self._server.address)
        return {spec.name: answer.as_numpy(spec.name)[0] for spec in self._spec.outputs}

    def _failure(self, error: InferenceServerException, deadline: float) -> ServerError:
        status = str(error.status()).removeprefix("StatusCode.")
        match status:
            case "DEADLINE_EXCEEDED":
                reason = f"no answer within {deadline * 1e3:g} ms"
            case "NOT_FOUND":
                reason = "that server is stopping, or not swapped to this release yet"
            case _:
                reason = f"{status}: {error.message()}"
        failure = ServerError(f"{self._name} of {self._server.address}: {reason}")
        if self._answers:  # said once, not by every request until it is back
            self._answers = False
            log.warning("%s", failure)
        return failure
