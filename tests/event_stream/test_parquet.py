"""Parquet: rows go on where the last run ended, whatever the groups of rows; other columns are not read."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from event_stream.parquet import ParquetSource
from pinrec_core.errors import DataError

COLUMNS = frozenset({"user_id", "action"})


@pytest.mark.parametrize("group", [1, 4, 7, 100])
def test_every_row_once_over_many_runs(tmp_path, group):
    path, checkpoint = tmp_path / "events.parquet", tmp_path / "checkpoint"
    numbers = list(range(23))
    pq.write_table(
        pa.table({"user_id": numbers, "other": ["x"] * 23, "action": ["like"] * 23}), path, row_group_size=group
    )
    taken = []
    for _ in range(50):
        source = ParquetSource(path, checkpoint, columns=COLUMNS)
        batch = source.poll(3, 0.0)
        if batch is None:
            break
        source.commit(batch.position)
        assert all(set(record.value) == COLUMNS for record in batch.records)
        assert [record.offset for record in batch.records] == [record.value["user_id"] for record in batch.records]
        taken += [record.value["user_id"] for record in batch.records]
        source.close()
    assert taken == numbers


def test_another_file_is_refused(tmp_path):
    (tmp_path / "events.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="expected a parquet file"):
        ParquetSource(tmp_path / "events.parquet", tmp_path / "checkpoint", columns=COLUMNS)
