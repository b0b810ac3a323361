"""The interface of a stage, and the loop that all stages share. This module knows nothing of Triton.

A stage gets the tensors of one request as a mapping from name (``pinrec_core.contract``) to array, without the batch
dimension. An optional tensor that was not sent is absent from the mapping. ``run_batch`` parses every request, runs
the valid ones together and returns the answers in order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.errors import (
    BrokenStageError,
    ConfigError,
    InvalidRequestError,
    PinRecError,
    ServerError,
    StoreError,
    require,
    shown,
)
from pinrec_core.limits import Limit
from pinrec_core.stages.metrics import NO_METRICS, Metrics
from pinrec_core.store_location import StoreLocation

Tensors = Mapping[str, np.ndarray]
Row = TypeVar("Row")

log = logging.getLogger(__name__)


class Stage(Protocol[Row]):
    """One step of the pipeline."""

    def parse(self, tensors: Tensors) -> Row:
        """Validate one request and return it in the form that ``run`` takes. Raises ``InvalidRequestError``."""
        ...

    def run(self, rows: Sequence[Row]) -> Sequence[Tensors | PinRecError]:
        """Serve the valid requests of a batch together; one answer per row, in order.

        After it has raised, it is called again with parts of the same rows, so running a row twice must do no harm.
        """
        ...


START_SECONDS = 5.0
"""Within which the first call of a remote server is answered. It opens the connection too, and no request waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteServer:
    """Another server, on which a stage runs: its gRPC ``address`` as ``host:port``, and the time for an answer.

    Raises ``ConfigError`` for an address without a port, and for a deadline that is not above 0.
    """

    address: str
    deadline_ms: float = 100.0

    @staticmethod
    def parse(text: str) -> RemoteServer:
        """``HOST:PORT``, or ``HOST:PORT,MS`` with the deadline in milliseconds. Raises ``ConfigError``."""
        address, comma, deadline = text.partition(",")
        if not comma:
            return RemoteServer(address=address)
        try:
            return RemoteServer(address=address, deadline_ms=float(deadline))
        except ValueError as error:
            raise ConfigError(f"deadline_ms={deadline!r}: expected a number of milliseconds") from error

    def __str__(self) -> str:
        """What ``parse`` reads."""
        return f"{self.address},{self.deadline_ms!r}"

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        require(host != "" and port.isdecimal(), "address", self.address, "HOST:PORT", error=ConfigError)
        in_range = 0 < self.deadline_ms < math.inf
        require(in_range, "deadline_ms", self.deadline_ms, "a number above 0", error=ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageParameters:
    """Where a stage finds its data and what it runs on. Triton's ``parameters`` carry these values and no others.

    ``release`` is the release folder; it is None for ``signal_ingest``, which serves on while releases change.
    ``signals`` is the signals folder of a prepared dataset; it is None where no stage of the server reads it.
    ``realtime`` is the place of the real-time store; with None, histories come from the batch view alone.
    ``durability`` is what its events survive, a ``signal_service.store.Durability``; with ``max_lateness``, events that
    are further behind the clock (seconds) are refused. ``device`` is a torch device, and ``gpu_precision`` the number
    format of the model where that is a GPU. ``threads`` is the number of threads that one operation may use.
    ``compiled`` lets the generator run its compiled program, where there is one. ``remote`` is the server on which the
    stage runs; with None, it runs here. The recall of the index is measured on one in ``recall_every`` requests; with
    0, on none. ``metrics`` takes what the stage measures; it alone is not one of Triton's ``parameters``.
    """

    release: Path | None
    signals: Path | None
    realtime: StoreLocation | None
    device: str
    threads: int
    durability: str = "process"
    max_lateness: int | None = None
    gpu_precision: GpuPrecision = GpuPrecision.FP16
    compiled: bool = True
    remote: RemoteServer | None = None
    recall_every: int = 0
    metrics: Metrics = NO_METRICS

    @property
    def release_folder(self) -> Path:
        """The release folder, for a stage that needs one. Raises ``ConfigError`` where there is none."""
        if self.release is None:
            raise ConfigError("release=None: expected the folder of a release")
        return self.release

    @property
    def signals_folder(self) -> Path:
        """The signals folder, for a stage that needs one. Raises ``ConfigError`` where there is none."""
        if self.signals is None:
            raise ConfigError("signals=None: expected the signals folder of a prepared dataset")
        return self.signals


def run_batch(stage: Stage[Row], requests: Sequence[Tensors]) -> list[Tensors | PinRecError]:
    """Answer N requests with exactly N results, in order: the tensors, or the error of that request alone.

    A batched run that fails as a whole is bisected until the failing rows stand alone, so one bad row costs
    O(log N) further runs and its neighbours are still run together. A row may therefore be run more than once.
    ``StoreError``, ``ServerError`` and ``BrokenStageError`` are the exception: they answer every row at once.

    An unforeseen error is answered with a ``PinRecError`` whose message names only its class, and whose ``__cause__``
    it is. Its traceback is not logged here: the caller either raises the answer or logs it with ``exc_info=answer``.
    """
    parsed: list[Row | PinRecError] = []
    for tensors in requests:
        row = _parse(stage, tensors)
        parsed.append(row)
    rows = [row for row in parsed if not isinstance(row, PinRecError)]
    answers = iter(_run_isolated(stage, rows))
    return [row if isinstance(row, PinRecError) else next(answers) for row in parsed]


def _parse(stage: Stage[Row], tensors: Tensors) -> Row | PinRecError:
    try:
        return stage.parse(tensors)
    except Exception as error:
        return _as_answer(error)


def _run_isolated(stage: Stage[Row], rows: Sequence[Row]) -> Sequence[Tensors | PinRecError]:
    """Run the rows together. When that fails, run each half in the same way, down to single rows."""
    if not rows:
        return []
    try:
        answers = stage.run(rows)
        if len(answers) != len(rows):
            raise RuntimeError(f"the stage gave {len(answers)} answers: expected {len(rows)}, one per row")
        return answers
    except (StoreError, ServerError, BrokenStageError) as error:  # what is away or broken fails each row alike
        return [error] * len(rows)
    except Exception as error:
        if len(rows) == 1:
            return [_as_answer(error)]
        log.warning("a run of %d rows failed (%r); running its halves", len(rows), error)
    # Outside of `except`: within it, Python would chain the error of the whole to the errors of its parts.
    middle = len(rows) // 2
    return [*_run_isolated(stage, rows[:middle]), *_run_isolated(stage, rows[middle:])]


def _as_answer(error: Exception) -> PinRecError:
    if isinstance(error, PinRecError):
        return error
    answer = PinRecError(f"internal error ({type(error).__name__})")
    answer.__cause__ = error
    return answer


def scalar(tensors: Tensors, name: str) -> np.generic | None:
    """The single value of an optional tensor of shape [1], or None when it was not sent.

    Raises ``InvalidRequestError`` for another shape.
    """
    values = tensors.get(name)
    if values is None:
        return None
    if values.shape != (1,):
        raise InvalidRequestError(f"{name} has shape {list(values.shape)}: expected [1]")
    return values[0]


def text(value: object, field: str, limit: Limit) -> str:
    """An element of a BYTES tensor as text. Its length is checked first.

    Raises ``InvalidRequestError`` when it has more bytes than ``limit`` or is not UTF-8.
    """
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8")
    limit.check(len(raw), field)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{field}={shown(raw)}: expected UTF-8 text") from error
