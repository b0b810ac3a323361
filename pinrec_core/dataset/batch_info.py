"""What a run of the batch job covered: ``batch.json`` beside sequences and beside their view. It reads no sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pinrec_core.errors import DataError
from pinrec_core.validation import ListOf, load_json, save_json, validated

BATCH_INFO_NAME = "batch.json"
NO_SEQUENCES = "run `pinrec prepare` without --skip-signals"


@validated(DataError)
class BatchInfo:
    """What one run of the Spark job covered: the events before ``end_time`` (Unix seconds), from ``start_time`` on.

    Without a ``start_time`` it went back to the first event. Of each user the newest ``max_interactions_per_user`` were
    kept.
    """

    end_time: int
    start_time: int | None = None
    max_interactions_per_user: Annotated[int, Field(gt=0)] = 2048
    feature_space: str
    outcomes: ListOf[str]
    surfaces: ListOf[str]
    num_users: Annotated[int, Field(ge=0)]
    num_interactions: Annotated[int, Field(ge=0)]

    @staticmethod
    def load(folder: Path) -> BatchInfo:
        """Read ``folder/batch.json``. Raises ``DataError`` when it is absent, damaged, or holds something else."""
        path = Path(folder) / BATCH_INFO_NAME
        return load_json(BatchInfo, path, error=DataError, what="the description of a batch", absent=NO_SEQUENCES)

    def save(self, folder: Path) -> None:
        save_json(self, Path(folder) / BATCH_INFO_NAME)


def is_batch(folder: Path) -> bool:
    """Whether the folder holds a batch, that is, sequences or a view of them. A newer batch may replace it."""
    return (Path(folder) / BATCH_INFO_NAME).is_file()
