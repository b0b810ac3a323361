"""Loss, throughput and utilisation as TensorBoard curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pinrec_core.errors import ConfigError
from pinrec_core.training.metrics import EpochMetrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Writes curves over the optimiser's steps to one TensorBoard folder, or nowhere."""

    def __init__(self, writer: SummaryWriter | None) -> None:
        self._writer = writer

    def step(self, steps: int, **values: float) -> None:
        self._write("train", steps, values)

    def epoch(self, steps: int, metrics: EpochMetrics) -> None:
        self._write("epoch", steps, dataclasses.asdict(metrics))

    def _write(self, group: str, steps: int, values: Mapping[str, float | None]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, steps)


@contextmanager
def curves(folder: Path | None, *, first_step: int) -> Iterator[Curves]:
    """Write curves in ``folder`` from ``first_step`` on. Values from later steps of an interrupted run are dropped.

    Without a folder nothing is written. Raises ``ConfigError`` without the package ``tensorboard``, or for a folder
    that cannot be made.
    """
    if folder is None:
        yield Curves(None)
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"tensorboard={str(folder)!r}: expected the package tensorboard; pip install 'pinrec-on-triton[train]'"
        ) from error
    try:
        writer = SummaryWriter(str(folder), purge_step=first_step)
    except OSError as error:
        raise ConfigError(f"tensorboard={str(folder)!r}: expected a folder to write to ({error.strerror})") from error
    with writer:
        yield Curves(writer)
