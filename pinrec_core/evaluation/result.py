"""What one subject scored: the figures, and what each user contributed to them.

The users' own values are kept so that another process can compare two subjects user by user. On disk a result is a
folder: ``metrics.json`` and ``users.parquet``, one row per user and one column per array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pinrec_core.errors import DataError
from pinrec_core.evaluation.bootstrap import Interval, ratio_interval
from pinrec_core.validation import load_json, save_json, validated

METRICS_FILE = "metrics.json"
USERS_FILE = "users.parquet"
USER_ID = "user_id"
EQUAL_DISTINCT_ITEMS = "hit_equal_distinct_items"
"""The array that ``cut_to`` adds."""


@validated(DataError)
class _Metrics:
    """What ``metrics.json`` holds."""

    subject: str
    protocol: str
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """``metrics`` are plain data. ``arrays`` hold ``[users]`` or ``[users, Z]`` each, in the order of ``user_id``."""

    subject: str
    protocol: str
    metrics: dict[str, Any]
    user_id: list[int | str]
    arrays: dict[str, np.ndarray]

    def per_user(self, name: str) -> np.ndarray:
        """An array's mean over each user's targets: float64 ``[users]``."""
        values = self.arrays[name].astype(np.float64)
        return values.reshape(len(values), -1).mean(axis=1)

    def save(self, folder: Path) -> None:
        """Write both files; the folder is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {name: list(values) if values.ndim > 1 else values for name, values in self.arrays.items()}
        pq.write_table(pa.table({USER_ID: self.user_id, **columns}), folder / USERS_FILE)
        save_json(_Metrics(subject=self.subject, protocol=self.protocol, metrics=self.metrics), folder / METRICS_FILE)

    @staticmethod
    def load(folder: Path) -> EvaluationResult:
        """Raises ``DataError`` when the folder does not hold what ``save`` writes."""
        found = load_json(_Metrics, folder / METRICS_FILE, error=DataError, what="the metrics of an evaluation")
        path = folder / USERS_FILE
        try:
            table = pq.read_table(path)
            return EvaluationResult(
                subject=found.subject,
                protocol=found.protocol,
                metrics=found.metrics,
                user_id=table[USER_ID].to_pylist(),
                arrays={name: _array(table[name]) for name in table.column_names if name != USER_ID},
            )
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise DataError(f"{path}: expected the users of an evaluation ({error})") from error


def is_results(folder: Path) -> bool:
    """Whether a folder holds what ``save`` writes, one evaluation or several, and nothing else."""
    return all(path.is_dir() or path.name in (METRICS_FILE, USERS_FILE) for path in folder.rglob("*"))


def compare(
    first: Sequence[EvaluationResult], other: Sequence[EvaluationResult], name: str, *, baseline_name: str | None = None
) -> Interval:
    """Ratio of two subjects' means of an array, paired by user; each subject is one result per seed.

    ``baseline_name`` is the other's array where it has another name. Raises ``DataError`` when they were not judged on
    the same users.
    """
    check_same_users(*first, *other)
    return ratio_interval(stack(first, name), stack(other, baseline_name or name))


def compare_at_equal_distinct_items(first: EvaluationResult, one_list: EvaluationResult) -> Interval:
    """Unordered recall of ``first`` over that of a one-list subject at as many distinct items; see ``cut_to``."""
    return compare([first], [cut_to(one_list, first)], "hit", baseline_name=EQUAL_DISTINCT_ITEMS)


def cut_to(one_list: EvaluationResult, other: EvaluationResult) -> EvaluationResult:
    """``one_list`` with a further array, bool ``[users, Z]``: the hits that its list keeps when it is cut, user by
    user, to as many items as the lists of ``other`` hold distinct ones.

    Raises ``DataError`` for other users or a subject of several lists.
    """
    check_same_users(other, one_list)
    if "list_rank" not in one_list.arrays:
        raise DataError(f"{one_list.subject}: expected a subject of one list, it has {one_list.metrics['embeddings']}")
    hit = one_list.arrays["list_rank"] < other.arrays["distinct_items"][:, None]
    return replace(one_list, arrays=one_list.arrays | {EQUAL_DISTINCT_ITEMS: hit})


def stack(seeds: Sequence[EvaluationResult], name: str) -> np.ndarray:
    """An array's mean over each user's targets, by seed: float64 ``[seeds, users]``."""
    return np.stack([result.per_user(name) for result in seeds])


def check_same_users(first: EvaluationResult, *others: EvaluationResult) -> None:
    """Raises ``DataError`` unless all were judged on the same users, in the same order."""
    for result in others:
        if result.user_id != first.user_id:
            raise DataError(
                f"{result.subject} was judged on {len(result.user_id)} users: expected the {len(first.user_id)} of "
                f"{first.subject}, in the same order"
            )


def _array(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks()
    if not pa.types.is_list(values.type):
        return values.to_numpy(zero_copy_only=False)
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
