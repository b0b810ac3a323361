"""Deploys, swaps and drains releases on a real Triton with stand-in stages."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_client
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pinrec_core.contract import GENERATOR, SIGNAL_FETCH, SIGNAL_INGEST
from pinrec_core.errors import ConfigError, ServerError
from pinrec_core.ids import IdKind
from pinrec_core.stages.base import RemoteServer
from pinrec_serving.deployment import Deployment
from pinrec_serving.options import ServingOptions, parse_instances, parse_remotes
from pinrec_serving.runtime import TritonServer
from tests.pinrec_serving.conftest import manifest, stand_in_release

pytestmark = pytest.mark.triton

CLIENTS = 6


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signals")


@pytest.fixture(scope="module")
def deployment(server: TritonServer, templates: Path, signals: Path) -> Deployment:
    deployment = Deployment(server, templates, ServingOptions(signals=signals, realtime=signals / "realtime"))
    deployment.deploy_ingest(manifest())
    deploy(deployment, "r1")
    return deployment


@pytest.fixture
def client(server: TritonServer) -> Iterator[triton_client.InferenceServerClient]:
    with triton_client.InferenceServerClient(server.endpoint.grpc) as client:
        yield client


def deploy(deployment: Deployment, release_id: str, kind: IdKind = IdKind.INT) -> None:
    deployment.deploy(release_id=release_id, folder=stand_in_release(release_id), dataset=manifest(kind))


def tensor(name: str, values: np.ndarray) -> triton_client.InferInput:
    made = triton_client.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def ask(
    client: triton_client.InferenceServerClient, user_id: int | str = 7, *, rows: int = 1, **inputs: np.ndarray
) -> triton_client.InferResult:
    user = np.array([[user_id]] * rows, np.int64 if isinstance(user_id, int) else object)
    return client.infer("pinrec", [tensor("user_id", user), *(tensor(n, v) for n, v in inputs.items())])


def num_items(count: int) -> np.ndarray:
    return np.array([[count]], np.int32)


def surface(name: str) -> np.ndarray:
    return np.array([[name.encode()]], object)


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.status()), str(caught.value.message())


def test_a_request_passes_the_whole_ensemble(
    deployment: Deployment, client: triton_client.InferenceServerClient
) -> None:
    answer = ask(client, num_items=num_items(5))
    assert answer.as_numpy("release").tolist() == [[b"r1"]]
    assert answer.as_numpy("item_id").shape == (1, 5)
    assert answer.as_numpy("score").tolist() == [[1.0] * 5]
    assert answer.as_numpy("history_source").tolist() == [[b"r1", b"r1"]]  # from the first stage, past all others


def test_tensors_without_elements_cross_every_stage(
    deployment: Deployment, client: triton_client.InferenceServerClient
) -> None:
    new_user = ask(client, 0, num_items=num_items(4))
    assert new_user.as_numpy("item_id").shape == (1, 4)
    nothing = ask(client, num_items=num_items(0))
    assert nothing.as_numpy("item_id").shape == (1, 0)
    assert nothing.as_numpy("outcome").shape == (1, 0)


def test_refusals_name_what_is_wrong(deployment: Deployment, client: triton_client.InferenceServerClient) -> None:
    status, message = refusal(lambda: ask(client, rows=8))
    assert (status, message) == (
        "StatusCode.INVALID_ARGUMENT",
        "in ensemble 'pinrec', user_id has 8 rows: expected 1 per request",
    )
    status, message = refusal(lambda: client.infer("pinrec", [tensor("num_items", num_items(3))]))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "user_id is missing" in message
    status, message = refusal(lambda: ask(client, "u7"))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "'user_id'" in message
    status, message = refusal(lambda: ask(client, surface=surface("malformed")))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "surface='malformed': expected a known surface" in message


def test_an_unforeseen_error_is_internal_and_carries_the_request_id(
    deployment: Deployment, client: triton_client.InferenceServerClient, server: TritonServer
) -> None:
    inputs = [tensor("user_id", np.array([[7]], np.int64)), tensor("surface", surface("bug"))]
    status, message = refusal(lambda: client.infer("pinrec", inputs, request_id="request-42"))
    assert status == "StatusCode.INTERNAL"
    assert "request-42" in message
    assert "Traceback" not in message
    _, _, behind = server.log_file.read_text().partition("(request id request-42)\n")
    assert behind.startswith("Traceback (most recent call last)")
    assert "ZeroDivisionError" in behind


def test_a_batch_answers_each_request_as_alone(
    deployment: Deployment, client: triton_client.InferenceServerClient, server: TritonServer
) -> None:
    wishes = ["", "malformed", "", "bug", ""] * 4
    before = executions(client, "signal_fetch__r1")
    answers: dict[int, str] = {}

    def one(position: int, wish: str) -> None:
        try:
            answer = ask(client, num_items=num_items(position), surface=surface(wish))
            answers[position] = str(answer.as_numpy("item_id").shape[1])
        except InferenceServerException as error:
            answers[position] = str(error.status())

    run_together([partial(one, position, wish) for position, wish in enumerate(wishes)])
    expected = {"malformed": "StatusCode.INVALID_ARGUMENT", "bug": "StatusCode.INTERNAL"}
    assert answers == {p: expected.get(w, str(p)) for p, w in enumerate(wishes)}
    assert executions(client, "signal_fetch__r1") - before < len(wishes), "nothing was batched: the test shows nothing"


def executions(client: triton_client.InferenceServerClient, model: str) -> int:
    (statistics,) = client.get_inference_statistics(model).model_stats
    return statistics.execution_count


def run_together(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_model_control_is_the_owners(deployment: Deployment, client: triton_client.InferenceServerClient) -> None:
    _, message = refusal(lambda: client.unload_model("pinrec"))
    assert "restricted" in message
    _, message = refusal(lambda: client.load_model("pinrec", headers={"triton-grpc-protocol-pinrec-admin": "guess"}))
    assert "restricted" in message


def test_events_are_accepted_beside_the_ensemble(
    deployment: Deployment, client: triton_client.InferenceServerClient
) -> None:
    empty = {"BYTES": np.array([[b"", b""]], object), "INT64": np.array([[0, 0]], np.int64)}
    inputs = [tensor(t.name, empty["BYTES" if t.dtype == "BYTES" else "INT64"]) for t in SIGNAL_INGEST.inputs]
    assert client.infer("signal_ingest", inputs).as_numpy("stored").tolist() == [[2]]


def test_swaps_under_load_lose_nothing_and_mix_nothing(
    deployment: Deployment, client: triton_client.InferenceServerClient, server: TritonServer
) -> None:
    stop = threading.Event()
    seen: Counter[tuple[bytes, float]] = Counter()
    failures: list[str] = []

    def load() -> None:
        with triton_client.InferenceServerClient(server.endpoint.grpc) as own:
            while not stop.is_set():
                try:
                    answer = ask(own)
                    seen[answer.as_numpy("release")[0, 0], float(answer.as_numpy("score")[0, 0])] += 1
                except InferenceServerException as error:
                    failures.append(str(error))

    loaders = [threading.Thread(target=load) for _ in range(CLIENTS)]
    for loader in loaders:
        loader.start()
    try:
        for release_id in ("r2", "r3", "r4"):
            deploy(deployment, release_id)
            assert ask(client).as_numpy("release")[0, 0] == release_id.encode()
    finally:
        stop.set()
        for loader in loaders:
            loader.join()
    assert not failures, failures[:3]
    assert {release for release, _ in seen} == {b"r1", b"r2", b"r3", b"r4"}
    assert all(float(release[1:]) == score for release, score in seen), seen
    assert {p.name.partition("__")[2] for p in server.repository.iterdir()} == {"", "r4"}


def test_a_release_that_cannot_be_loaded_leaves_the_old_one_serving(
    deployment: Deployment, client: triton_client.InferenceServerClient, server: TritonServer
) -> None:
    serving = deployment.release_id
    with pytest.raises(ServerError, match=r"generator__damaged cannot be loaded: .*sha256 does not fit") as caught:
        deploy(deployment, "damaged")
    assert "At:" not in str(caught.value)
    assert deployment.release_id == serving
    assert ask(client).as_numpy("release")[0, 0].decode() == serving
    assert not [p.name for p in server.repository.iterdir() if "damaged" in p.name]
    assert not client.is_model_ready("signal_fetch__damaged")


def test_each_stage_is_loaded_once_per_swap(deployment: Deployment, server: TritonServer) -> None:
    deploy(deployment, "r8")
    assert server.log_file.read_text().count("successfully loaded 'generator__r8'") == 1


def test_string_ids_travel_as_bytes(deployment: Deployment, client: triton_client.InferenceServerClient) -> None:
    deploy(deployment, "r9", IdKind.STRING)
    metadata = client.get_model_metadata("pinrec")
    types = {t.name: t.datatype for t in (*metadata.inputs, *metadata.outputs)}
    assert (types["user_id"], types["item_id"]) == ("BYTES", "BYTES")
    assert ask(client, "user-7").as_numpy("release")[0, 0] == b"r9"
    deploy(deployment, "r10")


def test_what_a_stage_may_do_is_in_its_parameters(
    deployment: Deployment,
    client: triton_client.InferenceServerClient,
    server: TritonServer,
    templates: Path,
    signals: Path,
) -> None:
    """A generator that is told to run uncompiled; one that is not told may run its program."""
    uncompiled = Deployment(server, templates, ServingOptions(signals=signals, compiled=False))
    deploy(uncompiled, "r11")
    assert ask(client).as_numpy("release")[0, 0] == b"r11"
    assert parameters(server, "generator__r11")["compiled"] == "false"
    assert "compiled" not in parameters(server, "generator__r10")
    assert "compiled" not in parameters(server, "signal_ingest")
    deploy(deployment, "r12")  # it does not know of the other one, and takes the ensemble back
    deploy(deployment, "r10")


def parameters(server: TritonServer, model: str) -> dict[str, str]:
    config = text_format.Parse((server.repository / model / "config.pbtxt").read_text("utf-8"), ModelConfig())
    return {name: value.string_value for name, value in config.parameters.items()}


def test_draining_finishes_what_was_accepted_and_takes_nothing_new(
    deployment: Deployment, client: triton_client.InferenceServerClient, signals: Path
) -> None:
    """This test must be the last that uses the deployment, since nothing is served after it."""
    answers: list[bytes] = []
    slow = threading.Thread(
        target=lambda: answers.append(ask(client, surface=surface("slow")).as_numpy("release")[0, 0])
    )
    slow.start()
    while not (signals / "slow").exists():
        time.sleep(0.01)
    drained: list[bool] = []
    drain = threading.Thread(target=lambda: drained.append(deployment.drain(timeout=30.0)))
    drain.start()
    while client.is_model_ready("pinrec"):
        time.sleep(0.01)
    assert slow.is_alive(), "the server says not ready while it still works"
    status, _ = refusal(lambda: ask(client))
    assert status == "StatusCode.NOT_FOUND"
    drain.join()
    slow.join(timeout=1.0)
    assert drained == [True]
    assert answers == [b"r10"]


def test_instances_are_parsed() -> None:
    assert parse_instances(["generator=2", "id_embedder=1"]) == {"generator": 2, "id_embedder": 1}
    with pytest.raises(ConfigError, match="generator"):
        parse_instances(["generator"])


@pytest.mark.parametrize(
    "options",
    [
        {"instances": {"ranker": 2}},
        {"instances": {"generator": 0}},
        {"threads": 0},
        {"queue_delays": {"ranker": 0}},
        {"queue_delays": {"generator": -1}},
        {"remotes": {"ranker": RemoteServer(address="ids:8001")}},
        {"remotes": {"signal_fetch": RemoteServer(address="signals:8001")}},
        {"only": GENERATOR},
        {"durability": "fsync"},
        {"max_lateness": 0},
    ],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        ServingOptions(signals=Path("signals"), **options)


def test_a_stage_elsewhere_alone_is_told_where_and_signals_are_needed_where_they_are_read() -> None:
    server = RemoteServer(address="signals:8001", deadline_ms=0.1 + 0.2)
    options = ServingOptions(remotes={"signal_fetch": server})
    assert RemoteServer.parse(options.parameters(SIGNAL_FETCH, release=Path("r1"))["remote"]) == server
    assert "remote" not in options.parameters(GENERATOR, release=Path("r1"))
    with pytest.raises(ConfigError, match="signals=None"):
        ServingOptions(only=SIGNAL_FETCH)


def test_where_and_how_events_are_kept_is_told_to_the_stages_that_keep_them() -> None:
    options = ServingOptions(
        signals=Path("signals"), realtime="redis://signals:6379/0", durability="disk", max_lateness=60
    )
    ingest = options.parameters(SIGNAL_INGEST)
    assert (ingest["realtime"], ingest["durability"], ingest["max_lateness"]) == (
        "redis://signals:6379/0",
        "disk",
        "60",
    )
    fetch = options.parameters(SIGNAL_FETCH, release=Path("r1"))
    assert fetch["realtime"] == "redis://signals:6379/0"
    assert not {"durability", "max_lateness"} & set(fetch)
    folder = ServingOptions(signals=Path("signals"), realtime=Path("signals/realtime")).parameters(SIGNAL_INGEST)
    assert folder["realtime"] == str(Path("signals/realtime").resolve())
    assert not {"durability", "max_lateness"} & set(folder)


def test_servers_are_given_as_texts() -> None:
    assert parse_remotes(["generator=gpu:8001", "id_embedder=ids:8001,20"]) == {
        "generator": RemoteServer(address="gpu:8001"),
        "id_embedder": RemoteServer(address="ids:8001", deadline_ms=20.0),
    }
