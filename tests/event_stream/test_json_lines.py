"""Files of JSON lines: every line once whatever is committed in between, growing files, rotation, damage."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from event_stream.json_lines import JsonLinesSource
from event_stream.source import LONGEST_RECORD, NotCommittedError
from pinrec_core.errors import DataError


def read_all(source: JsonLinesSource, limit: int = 3) -> list[bytes]:
    found = []
    while batch := source.poll(limit, 0.0):
        if not batch.position:  # nothing new in a file that is followed
            break
        assert len(batch.records) <= limit
        found += [record.value.rstrip(b"\r\n") for record in batch.records]
    return found


def opened(path: Path, **options: bool) -> JsonLinesSource:
    return JsonLinesSource(path, path.with_name("checkpoint"), **options)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_every_line_once_over_many_runs(tmp_path, name):
    """Each run reads a batch more than it commits; what is committed is not read again, and all else is."""
    lines = [f'{{"n": {number}}}'.encode() for number in range(50)]
    path = write(tmp_path / name, b"\n".join(lines))  # the last line has no end
    taken: list[bytes] = []
    for _ in range(100):
        source = opened(path)
        batch = source.poll(7, 0.0)
        if batch is None:
            break
        source.poll(7, 0.0)  # read, never committed
        source.commit(batch.position)
        taken += [record.value.rstrip(b"\n") for record in batch.records]
        source.close()
    assert taken == lines


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=20),
    limit=st.integers(1, 6),
    ended=st.booleans(),
)
def test_lines_are_those_of_the_file(tmp_path_factory, lines, limit, ended):
    path = tmp_path_factory.mktemp("lines") / "events.jsonl"
    content = b"\n".join(lines) + (b"\n" if ended else b"")
    path.write_bytes(content)
    source = opened(path)
    found = read_all(source, limit)
    source.close()
    assert found == [line.rstrip(b"\r") for line in content.split(b"\n") if line and not line.isspace()]


def test_a_record_knows_its_place(tmp_path):
    path = write(tmp_path / "events.jsonl", b"{}\n\n  \n[1]\n")
    batch = opened(path).poll(10, 0.0)
    assert [(record.part, record.offset) for record in batch.records] == [("events.jsonl", 0), ("events.jsonl", 7)]


def test_a_line_that_is_being_written_waits_for_its_end(tmp_path):
    path = write(tmp_path / "events.jsonl", b'{"n": 1}\n{"n"')
    source = opened(path, follow=True)
    assert read_all(source) == [b'{"n": 1}']
    with path.open("ab") as file:
        file.write(b": 2}\n")
    assert read_all(source) == [b'{"n": 2}']
    assert source.poll(3, 0.0).records == (), "it does not end"


def test_a_file_that_takes_the_name_is_read_after_the_end_of_the_old_one(tmp_path):
    path = write(tmp_path / "events.jsonl", b"1\n2\n")
    source = opened(path, follow=True)
    assert read_all(source) == [b"1", b"2"]
    with path.open("ab") as file:
        file.write(b"3\n4")  # the writer ended without a last line feed
    path.rename(tmp_path / "events.jsonl.1")
    assert read_all(source) == [b"3"]
    write(path, b"5\n")
    found, position = [], {}
    for _ in range(4):
        batch = source.poll(5, 0.0)
        found += [record.value for record in batch.records]
        position |= batch.position
    assert found == [b"4", b"5\n"]
    source.commit(position)
    source.close()
    with path.open("ab") as file:
        file.write(b"6\n")
    assert read_all(opened(path)) == [b"6"], "the checkpoint is that of the new file"


def test_an_offset_of_the_old_file_is_committed_for_the_old_file(tmp_path):
    """So a run that is killed in between does not take an offset for one of the new file."""
    path = write(tmp_path / "events.jsonl", b"1\n2\n")
    source = opened(path, follow=True)
    old = source.poll(1, 0.0)
    read_all(source)
    path.rename(tmp_path / "events.jsonl.1")
    write(path, b"5\n6\n")
    read_all(source)
    read_all(source)
    source.commit(old.position)
    with pytest.raises(DataError, match="begins with other content"):
        opened(path)
    (tmp_path / "events.jsonl.1").rename(path)
    assert read_all(opened(path)) == [b"2"]


def test_a_file_that_was_cut_is_refused(tmp_path):
    path = write(tmp_path / "events.jsonl", b"1\n2\n3\n")
    source = opened(path, follow=True)
    source.commit(source.poll(9, 0.0).position)
    os.truncate(path, 2)
    with pytest.raises(DataError, match="only grows"):
        source.poll(1, 0.0)
    with pytest.raises(DataError, match=r"begins with other content|at least the 6 bytes"):
        opened(path)


def test_a_checkpoint_of_another_file_and_a_damaged_one_are_refused(tmp_path):
    path = write(tmp_path / "events.jsonl", b"1\n2\n")
    source = opened(path)
    source.commit(source.poll(1, 0.0).position)
    write(path, b"7\n8\n")
    with pytest.raises(DataError, match="remove the checkpoint"):
        opened(path)
    (tmp_path / "checkpoint").write_text(json.dumps({"offset": -1, "head_bytes": 0, "head_sha256": ""}))
    with pytest.raises(DataError, match="offset=-1"):
        opened(path)


def test_a_line_that_is_too_long_is_one_record_and_the_next_one_is_found(tmp_path):
    path = write(tmp_path / "events.jsonl", b"1\n" + b"x" * (3 * LONGEST_RECORD) + b"\n2\n")
    source = opened(path)
    records = [record for batch in iter(lambda: source.poll(9, 0.0), None) for record in batch.records]
    first, long, last = records
    assert (first.value, last.value) == (b"1\n", b"2\n")
    assert long.cut_from == 3 * LONGEST_RECORD + 1
    assert len(long.value) < 1000


def test_a_batch_is_bounded_in_bytes(tmp_path):
    path = write(tmp_path / "events.jsonl", (b"x" * 400_000 + b"\n") * 8)
    batches = []
    source = opened(path)
    while batch := source.poll(1000, 0.0):
        batches.append(len(batch.records))
    assert sum(batches) == 8
    assert max(batches) <= 3


@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: packed[:30] + b"?" * 9 + packed[39:]])
def test_a_damaged_packed_file_says_how_far_it_was_read(tmp_path, damage):
    path = tmp_path / "events.jsonl.gz"
    lines = b"".join(b'{"n": %d, "text": "%s"}\n' % (n, os.urandom(20).hex().encode()) for n in range(2000))
    path.write_bytes(damage(gzip.compress(lines)))
    with pytest.raises(DataError, match="damaged after"):
        read_all(opened(path))


def test_what_cannot_be_opened_or_followed_is_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        opened(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="not compressed"):
        opened(write(tmp_path / "events.jsonl.gz", b"1\n"), follow=True)


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path):
    source = JsonLinesSource(write(tmp_path / "events.jsonl", b"1\n"), tmp_path / "no folder" / "checkpoint")
    batch = source.poll(1, 0.0)
    with pytest.raises(NotCommittedError, match="cannot be written"):
        source.commit(batch.position)
