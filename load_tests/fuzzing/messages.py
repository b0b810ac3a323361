"""A request as it travels: tensors of bytes, whose parts need not fit together, and the call that sends them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import grpc
import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.utils import triton_to_np_dtype

_UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input: nothing keeps ``shape``, ``datatype`` and ``raw`` in step."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    @staticmethod
    def of(name: str, datatype: str, values: Sequence) -> Tensor:
        """The tensor ``[1, n]`` of numbers, or of bytes where the type is BYTES."""
        if datatype == "BYTES":
            return Tensor(name, datatype, (1, len(values)), texts(values))
        return Tensor(name, datatype, (1, len(values)), np.asarray(values, triton_to_np_dtype(datatype)).tobytes())

    def values(self) -> list:
        """The elements, where the tensor is well formed."""
        if self.datatype != "BYTES":
            return np.frombuffer(self.raw, triton_to_np_dtype(self.datatype)).tolist()
        found, at = [], 0
        while at < len(self.raw):
            (size,) = struct.unpack_from("<I", self.raw, at)
            found.append(self.raw[at + 4 : at + 4 + size])
            at += 4 + size
        return found


def texts(values: Sequence[bytes]) -> bytes:
    """The elements of a BYTES tensor, each behind its length."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request to ``model``, and in words what is wrong with it. ``edit`` changes the message at last, if set;
    ``raw`` is sent instead of all else, if set."""

    model: str
    tensors: tuple[Tensor, ...] = ()
    change: str = "none"
    edit: Callable[[ModelInferRequest], None] | None = field(default=None, compare=False)
    raw: bytes | None = None

    def encode(self) -> bytes:
        if self.raw is not None:
            return self.raw
        message = ModelInferRequest(model_name=self.model)
        for tensor in self.tensors:
            message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            message.raw_input_contents.append(tensor.raw)
        if self.edit is not None:
            self.edit(message)
        return message.SerializeToString()

    def with_tensor(self, old: Tensor, new: Tensor, change: str) -> Case:
        """The request with one tensor in the place of another."""
        return replace(self, tensors=tuple(new if t is old else t for t in self.tensors), change=change)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: the name of the gRPC status, its message, and the tensors where it is OK."""

    code: str
    message: str = ""
    tensors: tuple[Tensor, ...] = ()
    refused_by_front: bool = False

    def column(self, name: str) -> list:
        return next(tensor.values() for tensor in self.tensors if tensor.name == name)


class Caller:
    """One connection to the service. Messages are sent as the bytes that they are."""

    def __init__(self, url: str, deadline: float) -> None:
        # Its own pool of connections: otherwise all channels of a process share one.
        self._channel = grpc.insecure_channel(url, options=[*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1)])
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._deadline = deadline

    def send(self, message: bytes) -> Answer:
        """Always an answer: an error of the call is one."""
        try:
            response = ModelInferResponse.FromString(self._infer(message, timeout=self._deadline))
        except grpc.RpcError as error:
            trailing = {key for key, _ in error.trailing_metadata() or ()}
            return Answer(
                code=error.code().name,
                message=error.details() or "",
                refused_by_front="grpc-retry-pushback-ms" in trailing,
            )
        tensors = zip(response.outputs, response.raw_output_contents, strict=True)
        return Answer(code="OK", tensors=tuple(Tensor(t.name, t.datatype, tuple(t.shape), raw) for t, raw in tensors))

    def close(self) -> None:
        self._channel.close()
