"""What a stage is: parse each request, run the survivors once, answer in order. Knows nothing of Triton.

A stage sees one request's tensors as a mapping from contract name to array, the batch dimension removed; optional
tensors that were not sent are absent. ``run_batch`` is the only loop that every stage shares.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from pinrec_core.errors import ConfigError, InvalidRequestError, PinRecError

Tensors = Mapping[str, np.ndarray]
Row = TypeVar("Row")

log = logging.getLogger(__name__)


class Stage(Protocol[Row]):
    """One step of the pipeline."""

    def parse(self, tensors: Tensors) -> Row:
        """Validate one request. Raises ``InvalidRequestError``."""
        ...

    def run(self, rows: Sequence[Row]) -> Sequence[Tensors | PinRecError]:
        """Serve the valid requests of a batch in one go; one answer per row, in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageParameters:
    """Where a stage finds its data and on what it runs: all that Triton's ``parameters`` carry.

    ``release`` is the release folder (None for ``signal_ingest``, which outlives releases); ``signals`` the folder of
    the batch view; ``realtime`` that of the real-time store (None: serve from the batch view alone); ``device`` is a
    torch device; ``threads`` bounds the stage's intra-operation threads.
    """

    release: Path | None
    signals: Path
    realtime: Path | None
    device: str
    threads: int

    @property
    def release_folder(self) -> Path:
        """The release, for a stage that cannot do without. Raises ``ConfigError``."""
        if self.release is None:
            raise ConfigError("release=None: expected the folder of a release")
        return self.release


def run_batch(stage: Stage[Row], requests: Sequence[Tensors]) -> list[Tensors | PinRecError]:
    """Answer N requests with exactly N results, in order: the tensors, or the error of that request alone.

    When the batched run fails as a whole the rows are run one by one, so that the row at fault is answered with its
    error and its neighbours with their results. An unforeseen error is logged with its traceback and answered with a
    sentence that does not leak it.
    """
    answers: list[Tensors | PinRecError | None] = [None] * len(requests)
    rows: list[Row] = []
    positions: list[int] = []
    for position, tensors in enumerate(requests):
        try:
            rows.append(stage.parse(tensors))
            positions.append(position)
        except Exception as error:
            answers[position] = _as_answer(error)
    for position, answer in zip(positions, _run_isolated(stage, rows), strict=True):
        answers[position] = answer
    return [a if a is not None else PinRecError("the stage gave no answer") for a in answers]


def _run_isolated(stage: Stage[Row], rows: Sequence[Row]) -> Sequence[Tensors | PinRecError]:
    if not rows:
        return []
    try:
        return stage.run(rows)
    except Exception as error:
        if len(rows) == 1:
            return [_as_answer(error)]
        log.warning("a batch of %d failed (%s); running its rows one by one", len(rows), error)
        return [_run_isolated(stage, [row])[0] for row in rows]


def _as_answer(error: Exception) -> PinRecError:
    if isinstance(error, PinRecError):
        return error
    log.exception("unforeseen error in a stage", exc_info=error)
    return PinRecError(f"internal error ({type(error).__name__}); the server's log has the details")


def scalar(tensors: Tensors, name: str) -> np.generic | None:
    """The single value of an optional tensor of shape [1], or None when it was not sent."""
    values = tensors.get(name)
    if values is None:
        return None
    if values.shape != (1,):
        raise InvalidRequestError(f"{name} has shape {list(values.shape)}: expected [1]")
    return values[0]


def text(value: object, name: str) -> str:
    """A BYTES element as text."""
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name}={value!r}: expected UTF-8 text") from error
