"""The loop: nothing counts before all in front of it is done, memory is bounded, and every end commits what it may."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from event_stream.delivery import Delivered
from event_stream.ingestion import Ingestion, IngestSettings
from event_stream.rejected import Rejected, RejectedFile, Why
from event_stream.source import Batch, NotCommittedError, Record
from event_stream.stopping import Stopping
from pinrec_core.errors import ConfigError, DataError, PinRecError, ServerError


@dataclass
class ListSource:
    """The numbers 0 … n − 1. ``check`` is called with every offset that is committed."""

    n: int
    check: Callable[[int], None] = lambda _: None
    fails_at: int | None = None
    ends: bool = True
    commit_failures: int = 0
    next: int = 0
    committed: list[int] = field(default_factory=list)
    settle: Callable[[], None] = lambda: None
    alive: int = 0

    def poll(self, limit: int, seconds: float) -> Batch | None:
        if self.next == self.fails_at:
            raise DataError("damaged")
        if self.next == self.n:
            time.sleep(0.001)
            return None if self.ends else Batch()
        end = min(self.next + limit, self.n if self.fails_at is None else self.fails_at)
        numbers, self.next = range(self.next, end), end
        return Batch(records=[Record(b"%d" % n, "list", n) for n in numbers], position={"list": end})

    def commit(self, position: Mapping[Hashable, int]) -> None:
        if self.commit_failures:
            self.commit_failures -= 1
            raise NotCommittedError("not now")
        self.check(position["list"])
        self.committed.append(position["list"])

    def keep_alive(self) -> None:
        self.alive += 1

    def on_handover(self, settle: Callable[[], None]) -> None:
        self.settle = settle

    def close(self) -> None:
        pass


class Sink:
    """Acknowledges after a moment that is random, so that batches end in any order, but for those that ``fail``."""

    def __init__(self, fail: Mapping[int, Exception] | None = None, reject: frozenset[int] = frozenset()) -> None:
        self.done: set[int] = set()
        self.most = self._now = 0
        self._fail, self._reject = fail or {}, reject
        self._lock = threading.Lock()

    def __call__(self, records: Sequence[Record]) -> Delivered:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(random.random() * 0.004)
        numbers = [record.offset for record in records]
        with self._lock:
            self._now -= 1
            for number in numbers:
                if number in self._fail:
                    raise self._fail[number]
            self.done |= set(numbers)
        rejected = [Rejected(record, Why.REFUSED, "so") for record in records if record.offset in self._reject]
        return Delivered(acknowledged=len(records) - len(rejected), calls=1, rejected=rejected)


def ingestion(source, sink, tmp_path, stopping=None, **changes):
    options = {"batch": 3, "linger": 0.0, "commit_every": 0.0} | changes
    rejected = RejectedFile(tmp_path / "rejected.jsonl")
    return Ingestion(source, sink, rejected, IngestSettings(**options), stopping or Stopping())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(0, 60), batch=st.integers(1, 7), in_flight=st.integers(1, 8), fails=st.integers(0, 80))
def test_a_committed_offset_has_nothing_undone_before_it(tmp_path, n, batch, in_flight, fails):
    """Whatever order batches end in, and although one of them fails."""
    sink = Sink({fails: ServerError("broken")})

    def nothing_undone(offset: int) -> None:
        assert set(range(offset)) <= sink.done

    source = ListSource(n, nothing_undone)
    run = ingestion(source, sink, tmp_path, batch=batch, in_flight=in_flight)
    if fails < n:
        with pytest.raises(ServerError, match="broken"):
            run.run()
        assert all(offset <= fails for offset in source.committed)
        assert max(source.committed, default=0) == fails // batch * batch, "all in front of it is committed"
    else:
        counters = run.run()
        assert (counters.read, counters.acknowledged, counters.in_flight) == (n, n, 0)
        assert source.committed[-1:] == ([n] if n else [])
    assert source.committed == sorted(set(source.committed))
    assert sink.most <= in_flight


def test_reading_stops_while_the_service_takes_nothing(tmp_path):
    taken = threading.Event()
    source, stop = ListSource(1000), threading.Event()

    def blocked(records: Sequence[Record]) -> Delivered:
        taken.wait()
        return Delivered(acknowledged=len(records))

    run = ingestion(source, blocked, tmp_path, Stopping(stop.is_set), in_flight=4)
    thread = threading.Thread(target=run.run)
    thread.start()
    while source.alive < 3:
        time.sleep(0.01)
    assert source.next == 4 * 3, "as many batches as may be in flight"
    assert source.committed == []
    stop.set()
    taken.set()
    thread.join()
    assert source.committed[-1] == source.next == 12, "what was in flight at the stop is finished and committed"


def test_a_source_that_fails_does_not_take_along_what_it_gave(tmp_path):
    source = ListSource(100, fails_at=50)
    with pytest.raises(DataError, match="damaged"):
        ingestion(source, Sink(), tmp_path).run()
    assert source.committed[-1] == 50


def test_a_run_ends_when_nothing_comes(tmp_path):
    source = ListSource(10, ends=False)
    assert ingestion(source, Sink(), tmp_path, idle=0.05).run().acknowledged == 10
    assert source.committed[-1] == 10


def test_a_commit_that_fails_is_tried_again_and_raised_at_the_end(tmp_path):
    source = ListSource(30, commit_failures=3)
    counters = ingestion(source, Sink(), tmp_path).run()
    assert source.committed[-1] == 30
    assert counters.committed
    with pytest.raises(NotCommittedError):
        ingestion(ListSource(30, commit_failures=10**6), Sink(), tmp_path).run()


def test_rejected_records_are_on_the_disk_before_they_count(tmp_path):
    """With reason and place; a second run appends."""
    path = tmp_path / "rejected.jsonl"

    def on_the_disk(offset: int) -> None:
        lines = [json.loads(line)["offset"] for line in path.read_text().splitlines()] if path.exists() else []
        assert set(lines) >= {number for number in (5, 17) if number < offset}

    for run in (1, 2):
        counters = ingestion(ListSource(40, on_the_disk), Sink(reject=frozenset({5, 17})), tmp_path).run()
        assert (counters.refused, counters.acknowledged) == (2, 38)
        assert len(path.read_text().splitlines()) == 2 * run
    line = json.loads(path.read_text().splitlines()[0])
    assert line == {"part": "list", "offset": 5, "why": "refused", "reason": "so", "record": "5"}


def test_a_line_that_a_killed_run_left_unfinished_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "rejected.jsonl"
    path.write_text('{"part": "li')
    file = RejectedFile(path)
    file.add([Rejected(Record(b"\xff", "list", 1), Why.UNREADABLE, "x" * 10_000)])
    file.close()
    line = json.loads(path.read_text().splitlines()[1])
    assert line["record_base64"] == "/w=="
    assert len(line["reason"]) < 600


def test_a_run_that_rejects_too_much_fails_and_does_not_commit_it(tmp_path):
    """So the records are read again when the cause is mended."""
    source = ListSource(5000)
    bad = frozenset(range(2000, 5000))
    with pytest.raises(DataError, match=r"rejected=.*expected at most 10\.0% \(--max-rejected\)"):
        ingestion(source, Sink(reject=bad), tmp_path, batch=100).run()
    assert 2000 <= source.committed[-1] <= 2300
    with pytest.raises(DataError, match="rejected=2 of 10"):
        ingestion(ListSource(10), Sink(reject=frozenset({1, 2})), tmp_path, commit_every=60.0).run()
    assert ingestion(ListSource(10), Sink(reject=frozenset({1})), tmp_path).run().rejected == 1


def test_a_handover_finishes_and_commits_what_is_in_flight(tmp_path):
    class HandsOver(ListSource):
        def poll(self, limit: int, seconds: float) -> Batch | None:
            if self.next == 9:
                self.settle()
                assert self.committed[-1] == 9
            return super().poll(limit, seconds)

    assert ingestion(HandsOver(20), Sink(), tmp_path, commit_every=60.0).run().acknowledged == 20


def test_a_failure_found_in_a_handover_is_raised_by_the_loop(tmp_path):
    class HandsOver(ListSource):
        def poll(self, limit: int, seconds: float) -> Batch | None:
            if self.next == 9:
                self.settle()  # called by a library, which must not see the error
            return super().poll(limit, seconds)

    source = HandsOver(20)
    with pytest.raises(PinRecError, match="broken"):
        ingestion(source, Sink({4: ServerError("broken")}), tmp_path, commit_every=60.0).run()
    assert source.committed == [3]


@pytest.mark.parametrize("field", ["batch", "in_flight", "max_rejected", "idle"])
def test_settings_are_checked(field):
    with pytest.raises(ConfigError, match=f"{field}=-1"):
        IngestSettings(**{field: -1})
