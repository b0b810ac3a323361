"""What each client does in its own way: it sends messages, waits, and runs attempts beside each other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from pinrec_client.metadata import Metadata

Value = TypeVar("Value")
Answer = TypeVar("Answer")
Method = Any
"""A method of ``GRPCInferenceServiceStub``: gRPC has no types for it."""


class Race(Protocol):
    """Attempts at one call that run beside each other."""

    def start(self, method: Method, message: Message, *, timeout: float, metadata: Metadata) -> Any:
        """Start an attempt and return it."""

    async def next_end(self, within: float | None) -> Any:
        """An attempt that has ended and was not returned before, or None when none has after ``within`` seconds."""

    def result(self, attempt: Any) -> Any:
        """The answer to an attempt that has ended. Raises ``grpc.RpcError``."""


class Transport(Protocol):
    """How a client reaches the server and waits."""

    async def invoke(self, method: Method, message: Message, *, timeout: float, metadata: Metadata) -> Any:
        """Send a message and return the answer. Raises ``grpc.RpcError``."""

    def race(self) -> AbstractContextManager[Race]:
        """A race. The attempts that still run at the end of the context are cancelled."""

    async def sleep(self, seconds: float) -> None:
        """Wait before the next attempt."""

    async def map(
        self, function: Callable[[Value], Coroutine[Any, Any, Answer]], values: Iterable[Value], *, concurrency: int
    ) -> list[Answer]:
        """Apply a function to values, at most ``concurrency`` at a time; returns the results in the values' order."""
