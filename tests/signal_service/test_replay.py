"""What training reads and what serving reads are the same: for every user of a log, before and after every event.

Serving has the log in three parts: what the batch holds, what came after its end, and what came too late for it.
"""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pinrec_core.config.presets import preset
from pinrec_core.config.sections import GenerationConfig, Variant
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.dataset.sequences import iter_histories
from pinrec_core.evaluation.cases import leave_one_out_cases
from pinrec_core.history import DTYPES, History, ItemType
from pinrec_core.ids import IdKind, string_key, user_store_key
from pinrec_core.model.collate import collate
from pinrec_core.stages.base import run_batch
from pinrec_core.stages.packing import decode_request
from signal_service.batch_job import run_batch_job
from signal_service.fetch_stage import SignalFetchStage
from signal_service.merge import newest
from signal_service.request import RequestParser
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Event
from signal_service.user_histories import UserHistories
from signal_service.view_writing import build_batch_view
from tests.signal_service.builders import PIN, QUERIES, LogRow, random_log, write_prepared

pytestmark = pytest.mark.spark

END = 1_040  # of the batch; the log ends at 1,059
TEXT = {string_key(query): query for query in QUERIES}


class Log:
    """A log whose events came in three waves, and the two datasets that are made of it.

    ``trained`` is of the whole log. ``served`` is of the first wave alone and up to ``END``; everything else is in the
    real-time store, with some of what the batch holds.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        draw = random.Random(seed)
        rows = random_log([7, -3, 42, 99, 5], 300, seed)
        first = [row for row in rows if draw.random() < 0.7 and row[0] != 5]  # one user has nothing in the batch
        later = [row for row in rows if row not in first]
        self.rows = [*first, *later]
        self.trained = write_prepared(folder / "trained", self.rows)
        self.served = write_prepared(folder / "served", first)
        run_batch_job(self.trained)
        run_batch_job(self.served, end_time=END)
        build_batch_view(self.served / "signals")
        self.realtime = folder / "realtime"
        stored = [
            event(row, f"{place:06}")
            for place, row in enumerate(self.rows)
            if place >= len(first) or row[5] >= END or draw.random() < 0.3
        ]
        self.late = sum(event.timestamp < END for event in stored)
        draw.shuffle(stored)
        with RocksDbEventStore.open_primary(self.realtime) as store:
            for start in range(0, len(stored), 20):
                store.append(stored[start : start + 20])


def event(row: LogRow, event_id: str) -> Event:
    user, key, kind, action, surface, timestamp = row
    return Event(
        event_id=event_id, user_key=user_store_key(user, IdKind.INT), item_key=key, item_type=ItemType(kind),
        action=action, surface=surface, timestamp=timestamp, query="" if kind == PIN else TEXT[key],
    )  # fmt: skip


@pytest.fixture(scope="module", params=[0, 1])
def log(tmp_path_factory: pytest.TempPathFactory, spark_up: None, request: pytest.FixtureRequest) -> Log:
    return Log(tmp_path_factory.mktemp("replay"), request.param)


class Served:
    """The fetch stage, asked for what it knew at a time."""

    def __init__(self, log: Log, max_history: int) -> None:
        manifest = DatasetManifest.load(log.served)
        catalogue = ItemCatalogue.open(log.served)
        self._histories = UserHistories.open(manifest, catalogue, signals=log.served / "signals", realtime=log.realtime)
        model = preset("tiny").model_for(variant=Variant.OC, num_outcomes=2, num_surfaces=3, feature_width=20)
        parser = RequestParser(manifest, model, GenerationConfig(), lambda: 1e9)
        self._stage = SignalFetchStage(parser, self._histories, max_history=max_history)

    def at(self, user: int | str, times: list[int]) -> list[History]:
        """The histories as the stages behind the fetch stage get them."""
        asked = [{"user_id": np.array([user]), "request_time": np.array([time])} for time in times]
        found = []
        for start in range(0, len(asked), 32):
            for answer in run_batch(self._stage, asked[start : start + 32]):
                assert not isinstance(answer, Exception), answer
                packed = decode_request(answer["packed_request"])
                found.append(replace(packed.history, item_key=answer["history_item_key"]))
        return found

    def close(self) -> None:
        assert self._histories._realtime is not None
        self._histories._realtime.close()


def assert_same_input(served: History, trained: History, when: str) -> None:
    for name in DTYPES:
        np.testing.assert_array_equal(getattr(served, name), getattr(trained, name), err_msg=f"{name} {when}")
    ours, theirs = (collate([history]) for history in (served, trained))
    for name in ("feature", "scale", "item_type", "surface", "timestamp", "length", "start_surface", "start_timestamp"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), f"{name} {when}"


@pytest.mark.parametrize("max_history", [5, 512])
def test_training_and_serving_read_the_same_before_and_after_every_event(log, max_history):
    compared = 0
    with closing(Served(log, max_history)) as served:
        for user, trained in iter_histories(log.trained / "signals" / "sequences"):
            times = sorted({time for at in trained.timestamp.tolist() for time in (at - 1, at)})
            for time, history in zip(times, served.at(user, times), strict=True):
                known = trained.take(trained.timestamp <= time)
                assert_same_input(history, newest(known, max_history), f"of user {user} at {time}")
                compared += len(known)
    assert compared > 1_000
    assert log.late > 30


def test_a_request_gets_the_history_on_which_the_model_was_judged(log):
    judged = 0
    with closing(Served(log, 512)) as served:
        for case in leave_one_out_cases(log.trained, ItemCatalogue.open(log.trained)):
            if case.history.timestamp[-1] < case.request_time:  # otherwise its second has events on either side
                (history,) = served.at(case.user_id, [case.request_time - 1])
                assert_same_input(history, case.history, f"of user {case.user_id}")
                judged += 1
    assert judged >= 2
