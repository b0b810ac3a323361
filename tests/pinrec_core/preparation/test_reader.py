"""CSV files with malformed records, against the list of their lines: what is read and what is set aside, by row."""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinrec_core.errors import DataError
from pinrec_core.preparation import reader
from pinrec_core.preparation.reader import read_batches

NAME = "größe"
TEXTS = (b"", b"plain", "größer 東京".encode(), b"\xe4", b"\xff\xfe")  # the last two are not UTF-8
RECORD = st.one_of(
    st.tuples(st.sampled_from(TEXTS), st.sampled_from(TEXTS)),
    st.lists(st.sampled_from(TEXTS), min_size=3, max_size=4).map(tuple),  # too many cells
    st.tuples(st.sampled_from([b"alone", "süß".encode(), b"alone \xff"])),  # too few
)


def write_csv(path: Path, records: Sequence[tuple[bytes, ...]], *, mark: bytes = b"", end: bytes = b"\n") -> Path:
    lines = [f"{NAME},b".encode(), *(b",".join(b'"%s"' % cell for cell in record) for record in records)]
    content = mark + b"\n".join(lines) + end
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read(path: Path) -> tuple[dict[int, tuple[bytes, bytes]], dict[int, str]]:
    """By row, the cells of the well-formed records and the descriptions of the malformed ones."""
    cells: dict[int, tuple[bytes, bytes]] = {}
    malformed: dict[int, str] = {}
    num_read = 0
    for raw in read_batches(path, ["b", NAME]):
        columns = (raw.batch.column(name).to_pylist() for name in (NAME, "b"))
        cells |= dict(zip(raw.rows.tolist(), zip(*columns, strict=True), strict=True))
        malformed |= {fault["row"]: fault["value"] for fault in raw.malformed.to_pylist()} if raw.malformed else {}
        num_read += raw.num_read
    assert num_read == len(cells) + len(malformed)  # no row twice
    return cells, malformed


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(RECORD, min_size=1, max_size=60),
    block_bytes=st.sampled_from([128, 500, 1 << 20]),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    end=st.sampled_from([b"", b"\n"]),
)
def test_equals_the_lines(records, block_bytes, suffix, mark, end):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_CSV_BLOCK_BYTES", block_bytes)
        path = write_csv(Path(folder) / f"log{suffix}", records, mark=mark, end=end)
        cells, malformed = read(path)
    assert cells == {row: record for row, record in enumerate(records) if len(record) == 2}
    expected = {row: record for row, record in enumerate(records) if len(record) != 2}
    assert set(malformed) == set(expected)
    for row, record in expected.items():
        text = b",".join(b'"%s"' % cell for cell in record).decode("utf-8", "replace")
        assert malformed[row] == f"{len(record)} cells, not 2: {text}"


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_many_malformed_records_that_are_not_utf8(tmp_path, suffix, monkeypatch):
    """The first and the last record are among them, and some blocks hold nothing else."""
    monkeypatch.setattr(reader, "_CSV_BLOCK_BYTES", 1 << 12)
    records = [
        (b"\xff", b"\xfe", b"") if row % 3 == 0 or 2000 < row < 4000 else (b"%d" % row, "ü".encode())
        for row in range(10_000)
    ]
    cells, malformed = read(write_csv(tmp_path / f"log{suffix}", records))
    assert (min(malformed), max(malformed)) == (0, 9_999)
    assert cells == {row: record for row, record in enumerate(records) if len(record) == 2}
    assert set(malformed) == {row for row, record in enumerate(records) if len(record) == 3}
    assert malformed[0] == '3 cells, not 2: "\ufffd","\ufffd",""'


def test_nothing_is_printed(tmp_path):
    """Checked in a process of its own, because pyarrow does not print by way of ``sys.stderr``."""
    path = write_csv(tmp_path / "log.csv", [(b"1", b"2"), (b"\xff", b"", b"")])
    script = (
        "import sys; from pathlib import Path; from pinrec_core.preparation.reader import read_batches\n"
        f"print([raw.num_read for raw in read_batches(Path(sys.argv[1]), [{NAME!r}, 'b'])])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[2]\n", "")


def test_a_header_that_is_not_utf8(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"a,gr\xf6\xdfe\n1,2\n1,2,3\n")
    ((first,),) = [raw.batch.column("a").to_pylist() for raw in read_batches(path, ["a"])]
    assert first == b"1"
    with pytest.raises(DataError, match=r"no column \['b'\]: expected columns of the mapping among \['a', 'gr\ufffd"):
        next(read_batches(path, ["b"]))
