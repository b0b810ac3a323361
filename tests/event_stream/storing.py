"""The ingest model in this process: the real stage with the real store behind Triton's gRPC interface."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.utils import deserialize_bytes_tensor

from pinrec_core.errors import InvalidRequestError, PinRecError
from pinrec_core.ids import IdKind, user_store_key
from pinrec_core.stages.base import run_batch
from signal_service.ingest_stage import SignalIngestStage
from signal_service.rocksdb_store import RocksDbEventStore
from signal_service.store import Span
from tests.client.scripted import Answer, Question, Refusal, ScriptedService, metadata, scripted_service, tensors
from tests.signal_service.builders import EVENTS, make_manifest

NOW = 1_000_000
FOREVER = 10**12


@dataclass(repr=False)
class StoringService:
    """What it stores is what the service of ``url`` was sent. ``before`` may answer a call in the stage's place."""

    scripted: ScriptedService
    stage: SignalIngestStage
    store: RocksDbEventStore
    before: Callable[[list[str]], Answer | None] = lambda _: None
    calls: list[list[str]] = field(default_factory=list)  # the event ids of each
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return self.scripted.url

    def answer(self, question: Question) -> Answer:
        if not isinstance(question, ModelInferRequest):
            return metadata("INT64")
        request = _tensors(question)
        ids = [one.decode() for one in request["event_id"]]
        with self._one_at_a_time:
            self.calls.append(ids)
            answer = self.before(ids)
            if answer is not None:
                return answer
            (stored,) = run_batch(self.stage, [request])
        if isinstance(stored, PinRecError):
            refused = isinstance(stored, InvalidRequestError)
            status = grpc.StatusCode.INVALID_ARGUMENT if refused else grpc.StatusCode.UNAVAILABLE
            return Refusal(None, status, str(stored))
        return tensors(stored=stored["stored"][None])

    def event_ids(self, users: Sequence[int]) -> list[str]:
        """The ids of all that is stored of these users, repeated as often as they are stored."""
        spans = [Span(user_key=user_store_key(user, IdKind.INT), since=0, until=FOREVER, limit=10**6) for user in users]
        return [event.event_id for events in _read(self.store, spans) for event in events]


@contextmanager
def storing_service(folder: Path) -> Iterator[StoringService]:
    store = RocksDbEventStore.open_primary(folder / "realtime")
    stage = SignalIngestStage(make_manifest(IdKind.INT, EVENTS), store, clock=lambda: float(NOW))
    with scripted_service() as scripted:
        service = StoringService(scripted, stage, store)
        scripted.answer = service.answer
        yield service
    stage.close()


def row(number: int, **changes: object) -> dict[str, object]:
    """The record of event ``number``, of one of five users."""
    fields = {
        "event_id": f"e{number}", "user_id": number % 5, "item_id": 100 + number % 40, "action": "save",
        "surface": "home", "timestamp": NOW - 10_000 + number,
    }  # fmt: skip
    return {name: value for name, value in (fields | changes).items() if value is not None}


USERS = range(5)


def _tensors(message: ModelInferRequest) -> dict[str, np.ndarray]:
    arrays = {}
    for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True):
        texts = tensor.datatype == "BYTES"
        arrays[tensor.name] = deserialize_bytes_tensor(raw) if texts else np.frombuffer(raw, np.int64)
    return arrays


def _read(store: RocksDbEventStore, spans: Sequence[Span]) -> list:
    try:
        return [found.events for found in store.read(spans)]  # type: ignore[call-arg, arg-type, attr-defined]
    except TypeError:  # a store that is asked for one user at a time
        return [store.read(s.user_key, since=s.since, until=s.until, limit=s.limit) for s in spans]
