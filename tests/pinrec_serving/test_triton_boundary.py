"""Tests the boundary with small fakes of the backend's classes; ``test_deployment.py`` runs the real backend."""

from __future__ import annotations

import gc
import json
import logging
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pinrec_core.config.sections import GpuPrecision
from pinrec_core.contract import REQUEST_ID, TIMEOUT_US, TRACEPARENT, DType, StageSpec, TensorSpec
from pinrec_core.errors import ConfigError, InvalidRequestError, PinRecError, ReleaseError, StoreError
from pinrec_core.stages.base import RemoteServer, Tensors
from pinrec_core.stages.metrics import BATCH_REQUESTS, COMPUTE_SECONDS, REQUESTS, RESULTS
from pinrec_serving import triton_boundary
from pinrec_serving.triton_boundary import (
    NUMPY_TYPES,
    RESULT_OF,
    TRITON_CODES,
    bound_texts,
    execute,
    stage_parameters,
)
from tests.recorded import Recorded

SPEC = StageSpec(
    "doubler",
    (TensorSpec("value", DType.FP32, ("T",)), TensorSpec("label", DType.BYTES, (1,), optional=True)),
    (TensorSpec("doubled", DType.FP32, ("T",)), TensorSpec("label_out", DType.BYTES, (1,))),
)


@dataclass
class FakeTensor:
    _name: str
    _values: np.ndarray

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


@dataclass
class FakeRequest:
    tensors: dict[str, np.ndarray]
    id: str = ""
    trace_context: str = ""
    timeout_us: int = 0

    def timeout(self) -> int:
        return self.timeout_us

    def inputs(self) -> list[FakeTensor]:
        return [FakeTensor(name, values) for name, values in self.tensors.items()]

    def request_id(self) -> str:
        return self.id

    def trace(self) -> SimpleNamespace:
        return SimpleNamespace(get_context=lambda: self.trace_context)


@dataclass
class FakeError:
    message: str
    code: int = 0

    INTERNAL = 1
    INVALID_ARG = 2
    UNAVAILABLE = 3


@dataclass
class FakeResponse:
    output_tensors: list[FakeTensor]
    error: FakeError | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        assert self.error is None, self.error
        return {t.name(): t.as_numpy() for t in self.output_tensors}


@dataclass
class Doubler:
    """A stage whose rows can be made to fail: NaN fails the whole run, −1 is answered with an error."""

    runs: list[int] = field(default_factory=list)

    def parse(self, tensors: Tensors) -> Tensors:
        if len(tensors["value"]) > 4:
            raise InvalidRequestError(f"value has {len(tensors['value'])} entries: expected at most 4")
        return tensors

    def run(self, rows: Sequence[Tensors]) -> Sequence[Tensors | PinRecError]:
        self.runs.append(len(rows))
        if any(np.isnan(row["value"]).any() for row in rows):
            raise ZeroDivisionError("secret detail")
        return [self._answer(row) for row in rows]

    def _answer(self, row: Tensors) -> Tensors | PinRecError:
        if (row["value"] == -1).any():
            return StoreError("the store is closed")
        return {"doubled": row["value"] * 2, "label_out": np.array([row.get("label", ["none"])[0]], object)}


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = SimpleNamespace(Tensor=FakeTensor, TritonError=FakeError, InferenceResponse=FakeResponse)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    return fake


def request(*values: float, rows: int = 1, id: str = "", **more: np.ndarray) -> FakeRequest:
    return FakeRequest({"value": np.array([values] * rows, np.float32).reshape(rows, -1), **more}, id)


def test_a_batch_is_run_once_and_answered_in_order() -> None:
    stage = Doubler()
    answers = execute(SPEC, stage, [request(1, 2), request(3), request()])
    assert stage.runs == [3]
    assert [a.arrays()["doubled"].tolist() for a in answers] == [[[2, 4]], [[6]], [[]]]
    assert [a.arrays()["doubled"].shape for a in answers] == [(1, 2), (1, 1), (1, 0)]


def test_optional_input_and_bytes_pass() -> None:
    (answer,) = execute(SPEC, Doubler(), [request(1, label=np.array([[b"caf\xc3\xa9"]], object))])
    assert answer.arrays()["label_out"].tolist() == [[b"caf\xc3\xa9"]]
    assert answer.arrays()["label_out"].dtype == np.object_


def test_bad_requests_do_not_touch_their_neighbours() -> None:
    good = [request(1), request(2, 3)]
    alone = [execute(SPEC, Doubler(), [r])[0].arrays()["doubled"].tolist() for r in good]
    stage = Doubler()
    batch = [good[0], request(1, 2, 3, 4, 5), request(7, rows=8), good[1], request(-1)]
    answers = execute(SPEC, stage, batch)
    assert stage.runs == [3], "the malformed ones never reach the stage"
    assert [answers[i].arrays()["doubled"].tolist() for i in (0, 3)] == alone
    assert answers[1].error == FakeError("value has 5 entries: expected at most 4", FakeError.INVALID_ARG)
    assert answers[2].error == FakeError("value has 8 rows: expected 1 per request", FakeError.INVALID_ARG)
    assert answers[4].error == FakeError("the store is closed", FakeError.UNAVAILABLE)


def test_an_unforeseen_error_is_internal_with_a_request_id_and_leaks_nothing() -> None:
    answers = execute(SPEC, Doubler(), [request(1), request(float("nan"), id="r-7"), request(2)])
    assert [a.arrays()["doubled"].tolist() for a in (answers[0], answers[2])] == [[[2]], [[4]]]
    assert answers[1].error == FakeError(
        "internal error (ZeroDivisionError); the server's log has the details (request id r-7)", FakeError.INTERNAL
    )


def test_one_log_record_holds_the_request_id_and_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        (alone,) = execute(SPEC, Doubler(), [request(float("nan"), id="r-7")])
    (record,) = caplog.records
    assert record.getMessage() == "doubler: internal error (ZeroDivisionError) (request id r-7)"
    assert record.exc_info is not None
    written = caplog.handler.format(record)
    assert written.index("request id r-7") < written.index("Traceback (most recent call last)")
    assert "ZeroDivisionError: secret detail" in written
    assert alone.error is not None
    assert "request id r-7" in alone.error.message
    assert "Traceback" not in alone.error.message

    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        execute(SPEC, Doubler(), [request(1), request(2), request(float("nan"), id="r-8"), request(3)])
    (record,) = (record for record in caplog.records if record.exc_info)
    assert "request id r-8" in record.getMessage()


def test_a_foreseen_internal_error_is_logged_in_the_same_way(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass
    class Damaged(Doubler):
        def run(self, rows: Sequence[Tensors]) -> Sequence[Tensors | PinRecError]:
            raise ReleaseError("index.faiss: sha256 does not fit")

    (answer,) = execute(SPEC, Damaged(), [request(1, id="r-9")])
    (record,) = caplog.records
    assert record.getMessage() == "doubler: index.faiss: sha256 does not fit (request id r-9)"
    assert "in run\n" in caplog.handler.format(record)
    assert answer.error == FakeError(
        "index.faiss: sha256 does not fit; the server's log has the details (request id r-9)", FakeError.INTERNAL
    )


def test_no_other_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        execute(SPEC, Doubler(), [request(1, 2, 3, 4, 5), request(-1)])
    assert not caplog.records


def test_an_internal_error_without_a_request_id_gets_one() -> None:
    first, second = execute(SPEC, Doubler(), [request(float("nan")), request(float("nan"))])
    assert first.error is not None
    assert second.error is not None
    assert "request id" in first.error.message
    assert first.error.message != second.error.message


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "value is missing: doubler needs it"),
        ({"value": np.ones((1, 2), np.float64)}, "value has element type float64: expected FP32"),
        ({"value": np.ones((1, 2, 2), np.float32)}, "value has shape [2, 2]: expected ['T']"),
        ({"value": np.ones((), np.float32)}, "value has no rows: expected 1 per request"),
        ({"value": np.ones((0, 2), np.float32)}, "value has 0 rows: expected 1 per request"),
        ({"value": np.ones((1, 1), np.float32), "other": np.ones((1, 1))}, "other: doubler has no such input"),
        (
            {"value": np.ones((1, 1), np.float32), "label": np.array([[b"a", b"b"]], object)},
            "label has shape [2]: expected [1]",
        ),
    ],
)
def test_malformed_tensors_are_named(tensors: dict[str, np.ndarray], message: str) -> None:
    (answer,) = execute(SPEC, Doubler(), [FakeRequest(tensors)])
    assert answer.error == FakeError(message, FakeError.INVALID_ARG)


@dataclass
class Careless:
    """A stage that breaks its own contract."""

    answer: dict[str, np.ndarray]

    def parse(self, tensors: Tensors) -> Tensors:
        return tensors

    def run(self, rows: Sequence[Tensors]) -> Sequence[Tensors | PinRecError]:
        return [self.answer for _ in rows]


@pytest.mark.parametrize(
    "answer",
    [
        {"doubled": np.ones(2, np.float64), "label_out": np.array(["a"], object)},
        {"doubled": np.ones((2, 2), np.float32), "label_out": np.array(["a"], object)},
        {"doubled": np.ones(2, np.float32), "label_out": np.array(["a", "b"], object)},
        {"doubled": np.ones(2, np.float32)},
    ],
    ids=["type", "rank", "fixed size", "missing"],
)
def test_a_stage_that_breaks_its_contract_is_answered_as_internal(answer: dict[str, np.ndarray]) -> None:
    (response,) = execute(SPEC, Careless(answer), [request(1)])
    assert response.error is not None
    assert response.error.code == FakeError.INTERNAL


def test_every_error_class_has_a_triton_code() -> None:
    def classes(base: type[PinRecError]) -> set[type[PinRecError]]:
        return {base}.union(*(classes(c) for c in base.__subclasses__()))

    assert {c.code for c in classes(PinRecError)} == set(TRITON_CODES)


def test_every_element_type_has_an_array_type() -> None:
    assert set(NUMPY_TYPES) == set(DType)


def arguments(**parameters: str) -> dict[str, str]:
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    return {"model_name": "generator__r1", "model_config": json.dumps(config)}


def test_parameters_of_a_stage() -> None:
    got = stage_parameters(arguments(release="/r/1", signals="/s", realtime="/s/rt", device="cuda:1", threads="3"))
    assert (got.release, got.signals, got.realtime) == (Path("/r/1"), Path("/s"), Path("/s/rt"))
    assert (got.device, got.threads, got.compiled) == ("cuda:1", 3, True)
    assert not stage_parameters(arguments(signals="/s", compiled="false")).compiled
    assert got.gpu_precision is GpuPrecision.FP16
    assert stage_parameters(arguments(signals="/s", gpu_precision="bf16")).gpu_precision is GpuPrecision.BF16
    bare = stage_parameters(arguments(signals="/s"))
    assert (bare.release, bare.realtime, bare.device, bare.threads) == (None, None, "cpu", 1)
    assert (bare.durability, bare.max_lateness) == ("process", None)
    ingest = stage_parameters(arguments(realtime="redis://signals:6379/0", durability="disk", max_lateness="60"))
    assert (ingest.realtime, ingest.durability, ingest.max_lateness) == ("redis://signals:6379/0", "disk", 60)
    assert bare.remote is None
    elsewhere = stage_parameters(arguments(release="/r/1", remote="ids:8001,2.5"))
    assert elsewhere.signals is None
    assert elsewhere.remote == RemoteServer(address="ids:8001", deadline_ms=2.5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "there are no parameters; models are loaded by `pinrec serve`"),
        ({"remote": "ids:8001,soon"}, "parameters.remote='ids:8001,soon': deadline_ms='soon': expected a number"),
        ({"remote": "ids,20"}, "address='ids': expected HOST:PORT"),
        ({"signals": "/s", "threads": "0"}, "parameters.threads='0'"),
        ({"realtime": "http://host"}, "parameters.realtime='http://…': expected a folder, or a URL"),
        ({"signals": "/s", "max_lateness": "-1"}, "parameters.max_lateness='-1': expected a whole number"),
        ({"signals": "/s", "compiled": "no"}, "parameters.compiled='no': expected true or false"),
        (
            {"signals": "/s", "gpu_precision": "int8"},
            "parameters.gpu_precision='int8': expected one of fp16, bf16, fp32",
        ),
        ({"signals": "/s", "thread": "2"}, r"parameters \['thread'\] are unknown"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stage_parameters(arguments(**parameters))


def test_importing_the_boundary_needs_no_triton() -> None:
    assert "triton_python_backend_utils" not in vars(triton_boundary)


def test_texts_are_decoded_unless_there_are_too_many(backend: SimpleNamespace) -> None:
    decoded: list[int] = []

    def decode(encoded: np.ndarray) -> np.ndarray:
        decoded.append(len(encoded))
        return np.array([b"a", b"b"], np.object_)

    backend.deserialize_bytes_tensor = decode
    bound_texts()
    encoded = np.zeros(10, np.uint8)
    assert backend.deserialize_bytes_tensor(encoded).reshape([1, 2]).tolist() == [[b"a", b"b"]]
    assert decoded == [10]
    many = backend.deserialize_bytes_tensor(encoded).reshape([1, 25_000_000])
    assert decoded == [10]
    backend.deserialize_bytes_tensor(encoded).reshape([4, 1 << 62])  # beyond what NumPy can hold
    backend.deserialize_bytes_tensor(encoded).reshape([1, 3])  # of two texts
    refused, good = execute(SPEC, Doubler(), [request(1, label=many), request(3)])
    assert refused.error.message == "label has 10001 texts: expected at most 10000"
    assert refused.error.code == FakeError.INVALID_ARG
    assert good.arrays()["doubled"].tolist() == [[6]]


@pytest.mark.parametrize("values", [(1,) * 5, (np.nan,), (-1,)], ids=["refused", "unforeseen", "a store error"])
def test_a_request_that_failed_lets_go_of_its_tensors_at_once(
    values: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lie in shared memory. A traceback would hold them until Python collects circles, which may be much later."""
    monkeypatch.setattr(triton_boundary.log, "error", lambda *_, **__: None)  # pytest keeps what is logged
    bad = request(*values)
    held = weakref.ref(bad.tensors["value"])
    gc.disable()
    try:
        (answer,) = execute(SPEC, Doubler(), [bad])
        del bad
        assert held() is None
    finally:
        gc.enable()
    assert answer.error is not None


def test_a_message_is_cut_to_what_travels() -> None:
    (answer,) = execute(SPEC, Doubler(), [FakeRequest({"x" * 5000: np.zeros((1, 1), np.float32)}, "")])
    assert answer.error is not None
    assert len(answer.error.message.encode()) == 2048


def test_how_requests_end_is_counted_by_class() -> None:
    recorded = Recorded()
    requests = [request(1), request(2), request(1, 2, 3, 4, 5), request(-1), request(float("nan"))]
    execute(SPEC, Doubler(), requests, recorded)
    counted = {result: recorded.total(REQUESTS, result) for result in RESULTS}
    assert counted == {"ok": 2, "invalid": 1, "unavailable": 1, "expired": 0, "internal": 1}
    assert recorded.of(BATCH_REQUESTS) == [5]
    assert len(recorded.of(COMPUTE_SECONDS)) == 1
    assert {"ok", *RESULT_OF.values()} == set(RESULTS)
    assert set(TRITON_CODES.values()) == set(RESULT_OF)


def test_the_record_of_an_internal_error_carries_the_ids_of_request_and_trace(caplog: pytest.LogCaptureFixture) -> None:
    failing = [request(float("nan"), id="4f0c"), request(float("nan"), id="4f0d")]
    failing[1].trace_context = '{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-3815de5b26d4ca63-01"}'
    execute(SPEC, Doubler(), failing)
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(r.request_id, r.trace_id) for r in records] == [  # type: ignore[attr-defined]
        ("4f0c", None), ("4f0d", "0af7651916cd43dd8448eb211c80319c"),
    ]  # fmt: skip


def test_a_stage_that_passes_requests_on_gets_to_know_who_asked_and_in_which_trace() -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-3815de5b26d4ca63-01"
    traced = request(1, id="4f0c")
    traced.trace_context = json.dumps({"traceparent": traceparent})
    batch = [traced, request(2)]

    class Seeing(Doubler):
        def parse(self, tensors: Tensors) -> Tensors:
            seen.append({name: str(tensors[name][0]) for name in (REQUEST_ID, TRACEPARENT) if name in tensors})
            return super().parse(tensors)

    for passes_on, expected in (
        (True, [{REQUEST_ID: "4f0c", TRACEPARENT: traceparent}, {}]), (False, [{}, {}]),
    ):  # fmt: skip
        seen: list[dict[str, str]] = []
        answers = execute(SPEC, Seeing(), batch, passes_on=passes_on)
        assert [answer.arrays()["doubled"].tolist() for answer in answers] == [[[2]], [[4]]]
        assert seen == expected


def test_recall_every_is_a_number(tmp_path: Path) -> None:
    def parameters(value: str) -> dict[str, str]:
        config = {"parameters": {"recall_every": {"string_value": value}}}
        return {"model_name": "faiss_retrieval__r1", "model_config": json.dumps(config)}

    assert stage_parameters(parameters("500")).recall_every == 500
    with pytest.raises(ConfigError, match="recall_every='often'"):
        stage_parameters(parameters("often"))


@pytest.mark.parametrize(("sent", "got"), [(0, None), (1, 1), (1 << 62, 1 << 62), ((1 << 64) - 1, (1 << 63) - 1)])
def test_the_timeout_of_a_request_has_no_sign(sent: int, got: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensors] = []
    monkeypatch.setattr(Doubler, "parse", lambda _, tensors: seen.append(tensors) or tensors)
    asked = replace(request(1), timeout_us=sent)
    (answer,) = execute(replace(SPEC, takes_timeout=True), Doubler(), [asked])
    assert answer.error is None
    assert seen[0].get(TIMEOUT_US, np.array([None])).tolist() == [got]
