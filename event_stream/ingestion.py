"""The loop: batches are read, written by a bounded number of threads, and committed in the order of the source.

A position is committed when every record before it is acknowledged or lies in the file of rejected records, on the
disk. Batches may finish in any order; only the unbroken run of finished ones from the front counts. So whatever ends
the process, the next run begins at or before the first record that is not done.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

from event_stream.delivery import Delivered
from event_stream.rejected import RejectedFile, Why
from event_stream.source import Batch, EventSource, NotCommittedError, Position, Record
from event_stream.stopping import Stopping
from pinrec_core.errors import ConfigError, DataError, PinRecError, require

JUDGED_RECORDS = 1000
"""Records after which the share of rejected ones is judged while the run goes on; at its end, however few there are."""
HANDOVER_SECONDS = 10.0
"""How long what is in flight is waited for before a part of the source goes to another reader."""
LOOK_SECONDS = 0.2
"""How often the loop looks after the source and at a stop while it waits for the service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSettings:
    """``batch`` events go out in one call, and ``in_flight`` calls at once; no more than these are in memory.

    ``linger`` is how many seconds a batch waits to fill, ``commit_every`` the seconds between two commits,
    ``max_rejected`` the share of records above which the run fails, and ``idle`` the seconds without a record after
    which it ends. Raises ``ConfigError``.
    """

    batch: int = 500
    in_flight: int = 4
    linger: float = 0.1
    commit_every: float = 1.0
    max_rejected: float = 0.1
    idle: float | None = None

    def __post_init__(self) -> None:
        def check(condition: bool, field: str, expected: str) -> None:
            require(condition, field, getattr(self, field), expected, error=ConfigError)

        check(1 <= self.batch <= 10_000, "batch", "1 to 10,000 events, which is what the service takes in a call")
        check(1 <= self.in_flight <= 64, "in_flight", "1 to 64 calls")
        check(self.linger >= 0, "linger", "seconds from 0")
        check(self.commit_every >= 0, "commit_every", "seconds from 0")
        check(0 <= self.max_rejected <= 1, "max_rejected", "a share from 0 to 1")
        check(self.idle is None or self.idle > 0, "idle", "seconds above 0")


@dataclass(slots=True, kw_only=True)
class Counters:
    """What has become of the records so far. ``read`` is the sum of the three after it and of ``in_flight``."""

    read: int = 0
    acknowledged: int = 0
    unreadable: int = 0
    refused: int = 0
    in_flight: int = 0
    calls: int = 0
    commits: int = 0
    committed: bool = True  # whether all that is done is committed

    @property
    def rejected(self) -> int:
        return self.unreadable + self.refused


@dataclass(frozen=True, slots=True)
class _Pending:
    position: Position
    records: int
    future: Future[Delivered]


class Ingestion:
    """One run over ``source``, which the caller opens and closes, as it does ``rejected``.

    ``deliver`` writes a batch of records (``Delivery.deliver``), ``report`` is called with the counters again and
    again, and ``tell`` with sentences about what goes wrong.
    """

    def __init__(
        self,
        source: EventSource,
        deliver: Callable[[Sequence[Record]], Delivered],
        rejected: RejectedFile,
        settings: IngestSettings,
        stopping: Stopping,
        *,
        report: Callable[[Counters], None] = lambda _: None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source = source
        self._deliver = deliver
        self._rejected = rejected
        self._settings = settings
        self._stopping = stopping
        self._report = report
        self._tell = tell
        self.counters = Counters()
        self._pending: deque[_Pending] = deque()
        self._done: dict[Hashable, int] = {}  # finished from the front and not committed
        self._committed_at = time.monotonic()
        self._failure: Exception | None = None

    def run(self) -> Counters:
        """Read until the source ends or a stop is requested, finish what is in flight, and commit.

        Raises what the source or the service failed with, after the commit of what was done before, and ``DataError``
        when more is rejected than allowed.
        """
        self._source.on_handover(self._hand_over)
        with ThreadPoolExecutor(self._settings.in_flight, "ingest") as pool:
            try:
                source_failure = self._read(pool)
                while self._pending:
                    self._wait()
                if source_failure is not None:
                    raise source_failure
                self._require_few_rejected(at_end=True)
            except BaseException:
                self._stopping.abort()
                self._commit()
                raise
            finally:
                self._source.on_handover(lambda: None)
                self._report(self.counters)
        self._commit(last=True)
        return self.counters

    def _read(self, pool: ThreadPoolExecutor) -> PinRecError | None:
        """Returns what the source failed with: that does not take along what it gave before."""
        last_record = time.monotonic()
        while not self._stopping.requested:
            if len(self._pending) >= self._settings.in_flight:
                self._wait()
                continue
            try:
                batch = self._source.poll(self._settings.batch, self._settings.linger)
            except PinRecError as failure:
                return failure
            if batch is None:
                return None
            if batch.position:
                self._submit(pool, batch)
                last_record = time.monotonic()
            elif self._settings.idle is not None and time.monotonic() - last_record >= self._settings.idle:
                return None
            self._look()
        return None

    def _submit(self, pool: ThreadPoolExecutor, batch: Batch) -> None:
        self.counters.read += len(batch.records)
        self.counters.in_flight += len(batch.records)
        future = pool.submit(self._deliver, batch.records)
        self._pending.append(_Pending(batch.position, len(batch.records), future))

    def _wait(self) -> None:
        """Wait for the oldest batch for a moment."""
        wait([self._pending[0].future], timeout=LOOK_SECONDS)
        self._source.keep_alive()
        self._look()

    def _look(self) -> None:
        """Collect what is finished, commit when it is time, and report. Raises what a batch failed with."""
        self._collect()
        if time.monotonic() - self._committed_at >= self._settings.commit_every:
            self._commit()
        self._report(self.counters)

    def _collect(self) -> None:
        if self._failure is not None:  # what is behind the batch that failed never counts
            raise self._failure
        try:
            while self._pending and self._pending[0].future.done():
                self._take(self._pending.popleft())
        except Exception as failure:
            self._failure = failure
            raise

    def _take(self, batch: _Pending) -> None:
        delivered = batch.future.result()
        refused = sum(one.why is Why.REFUSED for one in delivered.rejected)
        self.counters.in_flight -= batch.records
        self.counters.acknowledged += delivered.acknowledged
        self.counters.refused += refused
        self.counters.unreadable += len(delivered.rejected) - refused
        self.counters.calls += delivered.calls
        self._rejected.add(delivered.rejected)
        self._require_few_rejected()  # before its position counts: once the cause is mended, it is read again
        self._done.update(batch.position)

    def _require_few_rejected(self, *, at_end: bool = False) -> None:
        done = self.counters.read - self.counters.in_flight
        if not done or (done < JUDGED_RECORDS and not at_end):
            return
        share = self.counters.rejected / done
        if share > self._settings.max_rejected:
            raise DataError(
                f"rejected={self.counters.rejected:,} of {done:,} records ({share:.1%}): expected at most "
                f"{self._settings.max_rejected:.1%} (--max-rejected); {self._rejected.path} has them, with reasons"
            )

    def _commit(self, *, last: bool = False) -> None:
        """Commit what is done. A failure is told and tried again later; with ``last`` it is raised."""
        self._committed_at = time.monotonic()
        self._rejected.sync()
        if not self._done:
            return
        try:
            self._source.commit(self._done)
        except NotCommittedError as error:
            self.counters.committed = False
            if last:
                raise
            self._tell(f"not committed, trying again: {error}")
            return
        self._done = {}
        self.counters.commits += 1
        self.counters.committed = True

    def _hand_over(self) -> None:
        """Finish and commit what can be done in a while: a part of the source is about to go to another reader.

        Called from within the source, so a failure is left to the loop.
        """
        wait([batch.future for batch in self._pending], timeout=HANDOVER_SECONDS)
        with suppress(Exception):  # ``_collect`` keeps it, and raises it again when the loop calls it next
            self._collect()
            self._commit()
