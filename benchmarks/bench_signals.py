"""Signal fetch: batch view and real-time store against a plain dict of decoded histories under the same stage.

The dict holds every user's history decoded in memory, which no service can afford. The ratio is therefore the cost of
storing, decoding and merging. The benchmark writes its real-time events to a store of its own.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.floors import Floor, copy_floor
from benchmarks.options import Options, Progress
from benchmarks.pipeline import request_tensors
from benchmarks.report import Result, Row, compare
from benchmarks.timing import time_together
from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.errors import PinRecError
from pinrec_core.history import DTYPES, History, ItemType
from pinrec_core.ids import user_store_key
from pinrec_core.release.format import Release
from pinrec_core.representations.text_encoder import text_encoder
from pinrec_core.stages.base import Tensors, run_batch
from signal_service.event_history import EventHistoryBuilder
from signal_service.fetch_stage import SignalFetchStage
from signal_service.request import RequestParser
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event
from signal_service.user_histories import UserHistory

BASELINE = "dict of decoded histories"
BATCHES = (1, 16)
USERS = 256
EVENTS_PER_USER = 20
NUM_ITEMS = 100


class DecodedHistories:
    """Whole histories in a dict, behind the methods of ``UserHistories`` that the stage uses."""

    def __init__(self, histories: Mapping[bytes, History], builder: EventHistoryBuilder) -> None:
        self._histories = histories
        self.builder = builder
        self._none = History.empty(builder.feature_width)

    def refresh(self) -> None:
        """Does nothing, because nothing is appended to the dict."""

    def at_many(self, asked: Sequence[tuple[bytes, int]]) -> list[UserHistory]:
        return [
            UserHistory(history=self._histories.get(user_key, self._none), source="batch", unavailable="")
            for user_key, _ in asked
        ]


def run(options: Options, progress: Progress) -> Result:
    progress("preparing")
    release, signals = options.prepared.release, options.prepared.signals
    manifest = release.manifest.dataset
    histories = dict(itertools.islice(iter_histories(signals / "sequences"), USERS))
    requests = [request_tensors(user, NUM_ITEMS, manifest) for user in histories]
    keys = [user_store_key(user, manifest.user_id_kind) for user in histories]
    end_time = BatchInfo.load(signals / "sequences").end_time
    with tempfile.TemporaryDirectory(prefix="pinrec-benchmarks-") as folder:
        store = Path(folder) / "realtime"
        with closing(RocksDbEventStore.open_primary(store)) as primary:
            for key in keys:
                primary.append(events(key, EVENTS_PER_USER, release.catalogue, manifest, end_time))
            stages = {
                "batch view": SignalFetchStage.open(options.prepared.parameters(realtime=None, threads=1)),
                "batch view + real-time": SignalFetchStage.open(options.prepared.parameters(realtime=store, threads=1)),
                BASELINE: dict_stage(release, dict(zip(keys, map(copied, histories.values()), strict=True))),
            }
            rows: list[Row] = []
            floors: dict[int, Floor] = {}
            for B in BATCHES:
                progress(f"B={B}")
                size = answered_bytes(stages["batch view + real-time"], requests) * B // len(requests)
                floor = floors.setdefault(size, copy_floor(size))
                timings = time_together(
                    {name: rotating(stage, requests, B) for name, stage in stages.items()}, seconds=options.seconds
                )
                least = dict.fromkeys(timings, floor.milliseconds(size))
                rows += compare({"B": B}, timings, BASELINE, floor_ms=least)
    settings = {
        "users": len(histories), "mean T": round(float(np.mean([len(h) for h in histories.values()])), 1),
        "real-time events": EVENTS_PER_USER, "max_history": release.manifest.model.max_history,
        "F": manifest.feature_width,
    }  # fmt: skip
    return Result(benchmark="signals", baseline=BASELINE, settings=settings, floors=list(floors.values()), rows=rows)


def rotating(stage: SignalFetchStage, requests: Sequence[Tensors], B: int) -> Callable[[], object]:
    """A function that fetches the next B users at each call."""
    position = itertools.count(0, B)

    def fetch() -> object:
        start = next(position) % (len(requests) - B + 1)
        return run_batch(stage, requests[start : start + B])

    return fetch


def answered_bytes(stage: SignalFetchStage, requests: Sequence[Tensors]) -> int:
    """Bytes of all tensors that the stage answers these requests with: at least these must be moved.

    Raises the first error, so that no failing request is timed.
    """
    size = 0
    for answer in run_batch(stage, requests):
        if isinstance(answer, PinRecError):
            raise answer
        size += sum(values.nbytes for values in answer.values())
    return size


def dict_stage(release: Release, histories: Mapping[bytes, History]) -> SignalFetchStage:
    manifest = release.manifest
    parser = RequestParser(manifest.dataset, manifest.model, manifest.generation, time.time)
    builder = EventHistoryBuilder(manifest.dataset, release.catalogue, text_encoder(manifest.dataset.text_encoder))
    decoded = DecodedHistories(histories, builder)
    return SignalFetchStage(parser, decoded, max_history=manifest.model.max_history)  # type: ignore[arg-type]


def events(
    user_key: bytes, count: int, catalogue: ItemCatalogue, manifest: DatasetManifest, end_time: int
) -> list[Event]:
    """``count`` interactions after the end of the batch, a minute apart."""
    random = np.random.default_rng(list(user_key))
    rows = random.integers(0, len(catalogue), count)
    return [
        Event(
            event_id=f"benchmark-{number}",
            user_key=user_key,
            item_key=int(catalogue.item_key[row]),
            item_type=ItemType.PIN,
            action=manifest.outcomes[number % len(manifest.outcomes)],
            surface=manifest.surfaces[-1],
            timestamp=end_time + 60 * number,
        )
        for number, row in enumerate(rows)
    ]


def copied(history: History) -> History:
    """The history with arrays of its own, because those of ``iter_histories`` are views of a whole batch."""
    return History(**{name: np.array(getattr(history, name)) for name in DTYPES})
