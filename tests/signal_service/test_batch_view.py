"""The key-value view holds exactly the histories of the sequences, and several readers can open it at once."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import DataError
from pinrec_core.history import DTYPES
from pinrec_core.ids import IdKind, user_store_key
from signal_service import view_writing
from signal_service.batch_view import BatchView
from signal_service.view_writing import build_batch_view, write_batch_view, write_view

pytestmark = pytest.mark.spark


@pytest.mark.parametrize("file_bytes", [view_writing._FILE_BYTES, 1])
def test_equals_the_sequences(signals, monkeypatch, file_bytes):
    """The histories are the same in many small files as in one."""
    monkeypatch.setattr(view_writing, "_FILE_BYTES", file_bytes)
    build_batch_view(signals)
    view = BatchView.open(signals)
    users = 0
    for user_id, expected in iter_histories(signals / "sequences"):
        got = view.get(user_store_key(user_id, IdKind.INT))
        for name in DTYPES:
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        users += 1
    assert users == view.info.num_users == 4
    assert view.get(user_store_key(123456, IdKind.INT)) is None
    view.close()


def test_the_view_is_ingested_and_neither_logged_nor_compacted(signals, tmp_path):
    out = tmp_path / "view"
    out.mkdir()
    told: list[int] = []
    write_view(signals / "sequences", out, DatasetManifest.load(signals), progress=told.append)
    assert told == [4]
    assert sorted(path.name for path in out.iterdir()) == ["batch.json", "users"]
    assert len(list((out / "users").glob("*.sst"))) == 1
    assert sum(path.stat().st_size for path in (out / "users").glob("*.log")) == 0


def test_integer_users_are_in_the_order_of_their_keys(signals):
    """−3 comes first: the order is that of the keys' bytes and of the numbers."""
    users = [user for user, _ in iter_histories(signals / "sequences")]
    assert users == sorted(users) == [-3, 7, 42, 99]
    keys = [user_store_key(user, IdKind.INT) for user in users]
    assert keys == sorted(keys)


def test_users_out_of_order_are_refused(signals):
    histories = list(iter_histories(signals / "sequences"))
    info = BatchInfo.load(signals / "sequences")
    for wrong in (histories[::-1], [histories[0], *histories]):
        with pytest.raises(DataError, match=r"user_id=\S+: expected users in the order of their store keys, each once"):
            write_batch_view(signals, wrong, info)
    assert BatchView.open(signals).get(user_store_key(7, IdKind.INT)) is not None


def test_two_processes_read_at_once(prepared):
    view = BatchView.open(prepared / "signals")
    script = (
        "import sys; from pathlib import Path; from signal_service.batch_view import BatchView\n"
        "from pinrec_core.ids import IdKind, user_store_key\n"
        "print(len(BatchView.open(Path(sys.argv[1])).get(user_store_key(7, IdKind.INT))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(prepared / "signals")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str(len(view.get(user_store_key(7, IdKind.INT)))), done.stderr
    view.close()


def test_a_new_view_takes_the_place_of_one_in_use(signals):
    view = BatchView.open(signals)
    before = view.get(user_store_key(7, IdKind.INT)).item_key.tolist()
    told: list[int] = []
    build_batch_view(signals, progress=told.append)
    assert told[-1] == 4
    assert view.get(user_store_key(7, IdKind.INT)).item_key.tolist() == before
    view.close()
    assert sorted(p.name for p in signals.iterdir()) == ["batch", "dataset.json", "sequences"]


def test_a_failed_build_leaves_the_old_view(signals):
    part = next(iter((signals / "sequences").glob("part-*.parquet")))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match="expected a readable parquet file"):
        build_batch_view(signals)
    assert BatchView.open(signals).get(user_store_key(7, IdKind.INT)) is not None


def test_sequences_that_lack_a_part(signals):
    for part in list((signals / "sequences").glob("part-*.parquet"))[:1]:
        part.unlink()
    with pytest.raises(DataError):
        build_batch_view(signals)


def test_without_a_view(signals):
    shutil.rmtree(signals / "batch")
    with pytest.raises(DataError, match="expected the description of a batch"):
        BatchView.open(signals)
