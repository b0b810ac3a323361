"""What the stages measure while they serve: one table of metrics, and the interface through which they are recorded.

A stage is given ``Metrics`` and calls ``record``; it knows nothing of who collects the values. Where nobody does, as in
tests and benchmarks, it has ``NO_METRICS``. Names follow the conventions of Prometheus: a unit at the end, ``_total``
for what only grows. Every metric has the labels ``stage`` and ``release``, which the collector adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

COMMON_LABELS = ("stage", "release")
"""Labels of every metric of a stage. The release is empty for ``signal_ingest``, which belongs to none."""


class Kind(StrEnum):
    """What ``record`` does with a value: adds it, replaces the one before, or counts it in its bucket."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table: its name, its kind, the stage that records it (``""``: every one), and what it means.

    ``labels`` come on top of the common ones. ``buckets`` are the upper bounds of a histogram's; beyond the last of
    them is one without a bound.
    """

    name: str
    kind: Kind
    stage: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Metrics(Protocol):
    """Takes what a stage measures."""

    def record(self, metric: Metric, value: float = 1, *labels: str) -> None:
        """Record one value. ``labels`` are the values of ``metric.labels``, in order."""
        ...


class NoMetrics:
    """Forgets everything."""

    def record(self, metric: Metric, value: float = 1, *labels: str) -> None:
        pass


NO_METRICS = NoMetrics()

HOUR, DAY = 3600, 86_400
POWERS_OF_TWO = tuple(float(2**i) for i in range(12))
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
AGES = (1.0, 10.0, 60.0, 600.0, HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY)

RESULTS = ("ok", "invalid", "unavailable", "expired", "internal")
"""How a request ended at a stage: answered, malformed, refused for now, given up by its caller before its turn came, or
failed by a fault of the service."""
EVENT_USES = ("served", "repeated", "unknown_item", "no_outcome")
"""What becomes of a stored event that is read for a request. ``repeated``: the batch or another event says the same, or
newer interactions fill the history. ``unknown_item``: neither the release's catalogue nor the user's batch history has
the content of its item. ``no_outcome``: its action is no outcome of the release."""
PROGRAMS = ("compiled", "plain", "cuda_graphs")

REQUESTS = Metric(
    "pinrec_requests_total", Kind.COUNTER, "", "Requests that a stage has answered, by how they ended.", ("result",)
)
BATCH_REQUESTS = Metric(
    "pinrec_batch_requests", Kind.HISTOGRAM, "", "Requests that a stage got together.", buckets=POWERS_OF_TWO[:8]
)
COMPUTE_SECONDS = Metric(
    "pinrec_compute_seconds", Kind.HISTOGRAM, "", "Time in which a stage answered one batch.", buckets=SECONDS
)
HISTORIES = Metric(
    "pinrec_histories_total", Kind.COUNTER, "signal_fetch",
    "Histories that were read, by where their interactions come from; none is a cold start.", ("source",),
)  # fmt: skip
HISTORIES_DEGRADED = Metric(
    "pinrec_histories_degraded_total", Kind.COUNTER, "signal_fetch",
    "Histories for which a part of the signals could not be read: realtime, batch or both.", ("unavailable",),
)  # fmt: skip
REALTIME_EVENTS = Metric(
    "pinrec_realtime_events_read_total", Kind.COUNTER, "signal_fetch",
    "Stored events that were read for a request, by use: served; repeated, where the batch holds them already; "
    "unknown_item or no_outcome, where the release does not know them.", ("use",),
)  # fmt: skip
REALTIME_READS_CUT = Metric(
    "pinrec_realtime_reads_cut_total", Kind.COUNTER, "signal_fetch",
    "Reads of a user with more stored events than are read at once; the oldest were left.",
)  # fmt: skip
HISTORY_INTERACTIONS = Metric(
    "pinrec_history_interactions", Kind.HISTOGRAM, "signal_fetch",
    "Interactions of a history before it is cut to what the model reads.", buckets=(0.0, *POWERS_OF_TWO),
)  # fmt: skip
HISTORY_AGE_SECONDS = Metric(
    "pinrec_history_age_seconds", Kind.HISTOGRAM, "signal_fetch",
    "From the newest interaction of a history to the time of the request.", buckets=AGES,
)  # fmt: skip
BATCH_END = Metric(
    "pinrec_batch_end_timestamp_seconds", Kind.GAUGE, "signal_fetch",
    "The Unix time up to which the batch histories know all events.",
)  # fmt: skip
SNAPSHOTS = Metric(
    "pinrec_signal_snapshots_total", Kind.COUNTER, "signal_fetch",
    "Snapshots of the batch histories that a stage was given, by whether it serves them: taken, or refused because "
    "they do not fit its release or are damaged.", ("result",),
)  # fmt: skip
REALTIME_UP = Metric(
    "pinrec_realtime_up", Kind.GAUGE, "signal_fetch",
    "1 while the real-time store can be read, 0 while histories come from the batch alone.",
)  # fmt: skip
CATCH_UP_SECONDS = Metric(
    "pinrec_realtime_catch_up_seconds", Kind.HISTOGRAM, "signal_fetch",
    "Time in which the reader of the real-time store caught up with its writer, which it does before each batch.",
    buckets=SECONDS,
)  # fmt: skip
PROGRAM = Metric(
    "pinrec_program_info", Kind.GAUGE, "generator", "1 for the program that generates embeddings.", ("program",)
)
EMBEDDINGS_GENERATED = Metric(
    "pinrec_embeddings_generated_total", Kind.COUNTER, "generator", "Embeddings that were generated."
)
EMBEDDINGS_KEPT = Metric(
    "pinrec_embeddings_kept_total", Kind.COUNTER, "generator",
    "Embeddings that are left after compression has merged those that are nearly equal.",
)  # fmt: skip
EMBEDDINGS_LOOKED_UP = Metric(
    "pinrec_embeddings_looked_up_total", Kind.COUNTER, "generator",
    "Embeddings that got a share of the budget, which are looked up in the index.",
)  # fmt: skip
ITEMS_ASKED = Metric(
    "pinrec_items_asked_total", Kind.COUNTER, "faiss_retrieval",
    "Items that the budgets of the requests gave to an outcome.", ("outcome",),
)  # fmt: skip
ITEMS_RETURNED = Metric(
    "pinrec_items_returned_total", Kind.COUNTER, "faiss_retrieval", "Items that were returned for an outcome.",
    ("outcome",),
)  # fmt: skip
SHORT_ANSWERS = Metric(
    "pinrec_short_answers_total", Kind.COUNTER, "faiss_retrieval", "Answers with fewer items than were asked for."
)
SECOND_LOOKS = Metric(
    "pinrec_second_looks_total", Kind.COUNTER, "faiss_retrieval",
    "Further searches, deeper and in more lists, for requests that had come up short.",
)  # fmt: skip
RECALL_WANTED = Metric(
    "pinrec_recall_wanted_total", Kind.COUNTER, "faiss_retrieval",
    "Items that an exact search found for sampled embeddings, as many as the index was calibrated with.",
)  # fmt: skip
RECALL_FOUND = Metric(
    "pinrec_recall_found_total", Kind.COUNTER, "faiss_retrieval",
    "How many of pinrec_recall_wanted_total the index found too. The ratio of the two is the recall of the index.",
)  # fmt: skip
RECALL_SKIPPED = Metric(
    "pinrec_recall_skipped_total", Kind.COUNTER, "faiss_retrieval",
    "Sampled embeddings that were not searched exactly, because an earlier one still was.",
)  # fmt: skip
RECALL_TARGET = Metric(
    "pinrec_recall_target_ratio", Kind.GAUGE, "faiss_retrieval", "The recall that the index was calibrated for."
)
EVENTS_STORED = Metric(
    "pinrec_events_stored_total", Kind.COUNTER, "signal_ingest", "Events that were written to the real-time store."
)
EVENT_AGE_SECONDS = Metric(
    "pinrec_event_age_seconds", Kind.HISTOGRAM, "signal_ingest",
    "From the time of an event to when it was stored; events that are dated ahead count as 0.", buckets=AGES,
)  # fmt: skip
USERS_FORGOTTEN = Metric(
    "pinrec_users_forgotten_total", Kind.COUNTER, "signal_ingest", "Requests to forget a user that were carried out."
)
EVENTS_SWEPT = Metric(
    "pinrec_events_swept_total", Kind.COUNTER, "signal_ingest",
    "Events that were removed from the real-time store, because every snapshot that is kept holds them.",
)  # fmt: skip
EVENTS_CHECKED = Metric(
    "pinrec_events_checked_total", Kind.COUNTER, "signal_ingest",
    "Stored events that were compared with the oldest snapshot. Those that were not swept are late for it.",
)  # fmt: skip
SWEPT_UNTIL = Metric(
    "pinrec_swept_until_timestamp_seconds", Kind.GAUGE, "signal_ingest",
    "The end (Unix time) of the batch that the real-time store was last swept with.",
)  # fmt: skip

STAGE_METRICS = (
    REQUESTS, BATCH_REQUESTS, COMPUTE_SECONDS,
    HISTORIES, HISTORIES_DEGRADED, REALTIME_EVENTS, REALTIME_READS_CUT,
    HISTORY_INTERACTIONS, HISTORY_AGE_SECONDS, BATCH_END, SNAPSHOTS, REALTIME_UP, CATCH_UP_SECONDS,
    PROGRAM, EMBEDDINGS_GENERATED, EMBEDDINGS_KEPT, EMBEDDINGS_LOOKED_UP,
    ITEMS_ASKED, ITEMS_RETURNED, SHORT_ANSWERS, SECOND_LOOKS,
    RECALL_WANTED, RECALL_FOUND, RECALL_SKIPPED, RECALL_TARGET,
    EVENTS_STORED, EVENT_AGE_SECONDS, USERS_FORGOTTEN, EVENTS_SWEPT, EVENTS_CHECKED, SWEPT_UNTIL,
)  # fmt: skip
"""The table."""
