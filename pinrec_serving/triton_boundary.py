"""The Triton boundary: it turns Python-backend requests into a stage's tensors, and the answers into responses.

This is the only module that uses ``triton_python_backend_utils``, which exists only inside a Python-backend process
and is therefore imported where it is used. The module checks what every stage relies on (batch dimension, element
type, shape), so that no ``model.py`` works on tensors and no stage knows Triton. It knows nothing of what a stage
computes.
"""

from __future__ import annotations

import json
import logging
import math
import struct
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.contract import REQUEST_ID, TIMEOUT_US, TRACEPARENT, DType, StageSpec, TensorSpec
from pinrec_core.errors import BrokenStageError, ConfigError, InvalidRequestError, PinRecError, require
from pinrec_core.limits import TEXTS, cut_message
from pinrec_core.stages.base import RemoteServer, Stage, StageParameters, Tensors, run_batch
from pinrec_core.stages.metrics import BATCH_REQUESTS, COMPUTE_SECONDS, NO_METRICS, REQUESTS, Metrics
from pinrec_core.store_location import StoreLocation, store_location
from pinrec_serving.model_names import stage_and_release
from pinrec_serving.stage_metrics import open_metrics

log = logging.getLogger(__name__)

_INT64_MAX = (1 << 63) - 1

TRITON_CODES: dict[str, str] = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "UNAVAILABLE": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "FAILED_PRECONDITION": "INTERNAL",  # Triton has no such code, and a caller can do nothing about it
    "INTERNAL": "INTERNAL",
}
"""``PinRecError.code`` → name of the ``TritonError`` code. A test checks that every error class has its code here."""

RESULT_OF = {
    "INVALID_ARG": "invalid",
    "UNAVAILABLE": "unavailable",
    "CANCELLED": "expired",
    "INTERNAL": "internal",
}
"""Name of the ``TritonError`` code → the result under which the request is counted."""

NUMPY_TYPES: dict[DType, tuple[np.dtype, ...]] = {
    DType.BOOL: (np.dtype(np.bool_),),
    DType.UINT8: (np.dtype(np.uint8),),
    DType.INT8: (np.dtype(np.int8),),
    DType.INT16: (np.dtype(np.int16),),
    DType.INT32: (np.dtype(np.int32),),
    DType.INT64: (np.dtype(np.int64),),
    DType.FP16: (np.dtype(np.float16),),
    DType.FP32: (np.dtype(np.float32),),
    DType.BYTES: (np.dtype(np.object_),),
    DType.USER_ID: (np.dtype(np.int64), np.dtype(np.object_)),
    DType.ITEM_ID: (np.dtype(np.int64), np.dtype(np.object_)),
}
"""The array types that each tensor type allows. A stage checks which of the two its release uses for an id."""


def bound_texts() -> None:
    """Keep Triton from decoding a BYTES tensor of more elements than ``limits.TEXTS``.

    It makes an object of every element before it calls ``execute``: of 25 million in a request of 100 MB it did so for
    18 seconds, in which no other request was answered. Instead such a tensor becomes a view of one empty text, which
    ``check_inputs`` refuses for its size. So does one that cannot be decoded: an error there would end the process.
    Call it once in a process.
    """
    import triton_python_backend_utils as pb_utils

    decode = pb_utils.deserialize_bytes_tensor
    pb_utils.deserialize_bytes_tensor = lambda encoded: _EncodedTexts(encoded, decode)


_TOO_MANY = np.broadcast_to(np.array(b"", np.object_), (1, TEXTS.most + 1))


class _EncodedTexts:
    """What Triton's process takes for the decoded texts: all that it does with them is to give them their shape."""

    def __init__(self, encoded: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]) -> None:
        self._encoded = encoded
        self._decode = decode

    def reshape(self, shape: Sequence[int]) -> np.ndarray:
        if math.prod(shape) > TEXTS.most:
            return _TOO_MANY
        try:
            return self._decode(self._encoded).reshape(shape)
        except (struct.error, ValueError):
            return _TOO_MANY


def stage_parameters(args: Mapping[str, str]) -> StageParameters:
    """Read the ``parameters`` of the model's configuration from the arguments of ``initialize``.

    Raises ``ConfigError`` when one is unknown, missing or malformed.
    """
    raw: dict[str, dict[str, str]] = json.loads(args["model_config"]).get("parameters", {})
    values = {name: parameter["string_value"] for name, parameter in raw.items()}
    model = args["model_name"]
    known = {
        "release",
        "signals",
        "realtime",
        "durability",
        "max_lateness",
        "device",
        "gpu_precision",
        "threads",
        "compiled",
        "remote",
        "recall_every",
    }
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"{model}: parameters {unknown} are unknown")
    if not values:
        raise ConfigError(f"{model}: there are no parameters; models are loaded by `pinrec serve`")
    threads = values.get("threads", "1")
    if not threads.isdecimal() or int(threads) < 1:
        raise ConfigError(f"{model}: parameters.threads={threads!r}: expected a whole number of at least 1")
    recall_every = values.get("recall_every", "0")
    if not recall_every.isdecimal():
        raise ConfigError(f"{model}: parameters.recall_every={recall_every!r}: expected a whole number of at least 0")
    max_lateness = values.get("max_lateness")
    if max_lateness is not None and not max_lateness.isdecimal():
        raise ConfigError(f"{model}: parameters.max_lateness={max_lateness!r}: expected a whole number of seconds")
    compiled = values.get("compiled", "true")
    if compiled not in ("true", "false"):
        raise ConfigError(f"{model}: parameters.compiled={compiled!r}: expected true or false")
    precision = values.get("gpu_precision", GpuPrecision.FP16.value)
    require(precision in set(GpuPrecision), f"{model}: parameters.gpu_precision", precision,
            f"one of {', '.join(GpuPrecision)}", error=ConfigError)  # fmt: skip
    return StageParameters(
        release=_path(values.get("release")),
        signals=_path(values.get("signals")),
        realtime=_realtime(model, values.get("realtime")),
        durability=values.get("durability", "process"),
        max_lateness=int(max_lateness) if max_lateness is not None else None,
        device=values.get("device", "cpu"),
        threads=int(threads),
        compiled=compiled == "true",
        remote=_remote_server(model, values.get("remote")),
        gpu_precision=GpuPrecision(precision),
        recall_every=int(recall_every),
        metrics=open_metrics(*stage_and_release(model)),
    )


def execute(
    spec: StageSpec,
    stage: Stage[Any],
    requests: Sequence[Any],
    metrics: Metrics = NO_METRICS,
    *,
    broken: Callable[[], None] = lambda: None,
    passes_on: bool = False,
) -> list[Any]:
    """Answer N ``InferenceRequest`` with exactly N ``InferenceResponse``, in order.

    A malformed request is answered with its own error. The others are run together, as if it were not there. An answer
    of code INTERNAL is logged in one record that holds the request id and the traceback. ``metrics`` is told how many
    there were, how long they took and how they ended. ``broken`` is called when an answer says that the stage cannot
    go on. A stage that ``passes_on`` its requests gets to know who asked, and in which trace.
    """
    began = time.perf_counter()
    answers = run_batch(_Checked(spec, stage, passes_on), requests)
    if any(isinstance(answer, BrokenStageError) for answer in answers):
        broken()
    responses = [_response(spec, answer, request) for answer, request in zip(answers, requests, strict=True)]
    metrics.record(COMPUTE_SECONDS, time.perf_counter() - began)
    metrics.record(BATCH_REQUESTS, len(requests))
    for result, count in Counter(map(_result, answers)).items():
        metrics.record(REQUESTS, count, result)
    for answer in answers:
        if isinstance(answer, PinRecError):
            _drop_tracebacks(answer)
    return responses


def _result(answer: Tensors | PinRecError) -> str:
    return RESULT_OF[_triton_code(answer)] if isinstance(answer, PinRecError) else "ok"


def _triton_code(error: PinRecError) -> str:
    return TRITON_CODES.get(error.code, "INTERNAL")


def _drop_tracebacks(error: BaseException | None) -> None:
    """Let go of the tensors of a request that failed.

    The frames of a traceback hold them, and hold the error, too. So they would stay, in the shared memory that every
    request needs, until Python next looks for such circles: after 18 requests of 100 MB it had grown by gigabytes.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class _Checked:
    """A stage that takes Triton's requests: it checks inputs and outputs against the contract of the wrapped stage."""

    def __init__(self, spec: StageSpec, stage: Stage[Any], passes_on: bool) -> None:
        self._spec = spec
        self._stage = stage
        self._passes_on = passes_on

    def parse(self, request: Any) -> Any:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        checked = check_inputs(self._spec, tensors)
        if self._spec.takes_timeout and (timeout := request.timeout()):
            checked[TIMEOUT_US] = np.array([min(timeout, _INT64_MAX)], np.int64)  # Triton's has no sign
        if self._passes_on:
            if request_id := request.request_id():
                checked[REQUEST_ID] = np.array([request_id], np.object_)
            if traceparent := _traceparent(request):
                checked[TRACEPARENT] = np.array([traceparent], np.object_)
        return self._stage.parse(checked)

    def run(self, rows: Sequence[Any]) -> Sequence[Tensors | PinRecError]:
        return [a if isinstance(a, PinRecError) else check_outputs(self._spec, a) for a in self._stage.run(rows)]


def check_inputs(spec: StageSpec, tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors of one request, without the batch dimension. Raises ``InvalidRequestError``."""
    by_name = {t.name: t for t in spec.inputs}
    for name in tensors:
        if name not in by_name:
            raise InvalidRequestError(f"{name}: {spec.name} has no such input")
    checked = {}
    for name, tensor in by_name.items():
        if name in tensors:
            checked[name] = _without_batch(tensor, tensors[name])
        elif not tensor.optional:
            raise InvalidRequestError(f"{name} is missing: {spec.name} needs it")
    return checked


def check_outputs(spec: StageSpec, tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors that a stage answered with, as its contract lists them.

    Raises ``RuntimeError`` for a wrong element type or shape and ``KeyError`` for a missing tensor.
    """
    checked = {}
    for tensor in spec.outputs:
        values = tensors[tensor.name]
        fits = values.dtype in NUMPY_TYPES[tensor.dtype] and _fits(tensor, values.shape)
        if not fits:
            raise RuntimeError(
                f"{spec.name} answered {tensor.name} as {values.dtype}{list(values.shape)}: "
                f"expected {tensor.dtype.value}{list(tensor.dims)}"
            )
        checked[tensor.name] = values
    return checked


def _without_batch(tensor: TensorSpec, values: np.ndarray) -> np.ndarray:
    if values.dtype not in NUMPY_TYPES[tensor.dtype]:
        raise InvalidRequestError(f"{tensor.name} has element type {values.dtype}: expected {tensor.dtype.value}")
    if values.dtype == np.object_:
        TEXTS.check(values.size, tensor.name)
    if values.ndim == 0 or values.shape[0] != 1:
        rows = values.shape[0] if values.ndim else "no"
        raise InvalidRequestError(f"{tensor.name} has {rows} rows: expected 1 per request")
    if not _fits(tensor, values.shape[1:]):
        raise InvalidRequestError(f"{tensor.name} has shape {list(values.shape[1:])}: expected {list(tensor.dims)}")
    return values[0]


def _fits(tensor: TensorSpec, shape: tuple[int, ...]) -> bool:
    expected = tensor.shape
    return len(shape) == len(expected) and all(e in (-1, s) for e, s in zip(expected, shape, strict=True))


def _response(spec: StageSpec, answer: Tensors | PinRecError, request: Any) -> Any:
    import triton_python_backend_utils as pb_utils

    if isinstance(answer, PinRecError):
        message = str(answer)
        code = _triton_code(answer)
        if code == "INTERNAL":
            request_id = request.request_id() or uuid.uuid4().hex[:12]
            log.error("%s: %s (request id %s)", spec.name, message, request_id, exc_info=answer,
                      extra={"request_id": request_id, "trace_id": _trace_id(request)})  # fmt: skip
            message = f"{message}; the server's log has the details (request id {request_id})"
        error = pb_utils.TritonError(cut_message(message), getattr(pb_utils.TritonError, code))
        return pb_utils.InferenceResponse(output_tensors=[], error=error)
    outputs = [pb_utils.Tensor(t.name, np.ascontiguousarray(answer[t.name][None])) for t in spec.outputs]
    return pb_utils.InferenceResponse(output_tensors=outputs)


def _trace_id(request: Any) -> str | None:
    """The id of the trace that the request belongs to, as OpenTelemetry writes it; None where it is not traced."""
    traceparent = _traceparent(request)
    return traceparent.split("-")[1] if traceparent else None  # version, trace id, span id, flags


def _traceparent(request: Any) -> str | None:
    context = request.trace().get_context()  # JSON
    return json.loads(context)["traceparent"] if context else None


def _remote_server(model: str, text: str | None) -> RemoteServer | None:
    try:
        return RemoteServer.parse(text) if text else None
    except ConfigError as error:
        raise ConfigError(f"{model}: parameters.remote={text!r}: {error}") from error


def _realtime(model: str, text: str | None) -> StoreLocation | None:
    try:
        return store_location(text) if text else None
    except ConfigError as error:
        raise ConfigError(f"{model}: parameters.{error}") from error


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
